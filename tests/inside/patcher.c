/* Asks through the proxy, writes over a page of libc's code or of the kernel's own (with what was there), and asks again. */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *ask(void) {
    static const char request[] = "GET http://api.bed.test/echo HTTP/1.1\r\nHost: api.bed.test\r\nConnection: close\r\n\r\n";
    struct sockaddr_in proxy = {.sin_family = AF_INET, .sin_port = htons(3128)};
    char answer[64] = {0};
    proxy.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int s = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(s, (struct sockaddr *)&proxy, sizeof proxy) || write(s, request, sizeof request - 1) < 0) return "broken";
    if (read(s, answer, sizeof answer - 1) < 12) return "broken";
    close(s);
    return strncmp(answer + 9, "200", 3) ? "no" : "yes";
}

int main(int argc, char **argv) {
    int vdso = argc > 1 && !strcmp(argv[1], "vdso");
    uintptr_t code = vdso ? getauxval(AT_SYSINFO_EHDR) : (uintptr_t)&getppid;
    volatile unsigned char *page = (unsigned char *)(code & ~(uintptr_t)4095);
    printf("%s\n", ask());
    fflush(stdout);
    if (mprotect((void *)page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC)) {
        printf("sealed\n");
        return 0;
    }
    *page = *page;
    if (mprotect((void *)page, 4096, PROT_READ | PROT_EXEC)) return 2;
    printf("%s\n", ask());
    return 0;
}
