/* Processes that outrun whoever kills them one by one: each begins another and exits. Usage: hopper KIND HOW_MANY.
 * Standard output is never written to: whoever waits for its end waits for all of them. Ends by itself when they are at it. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static char kind;
static unsigned generation;
static volatile int *at_it;
/* A parent's own stack stays in use until it is gone. */
static char stacks[8][65536];

static int hop(void *unused) {
    (void)unused;
    if (generation == 3) __sync_fetch_and_add(at_it, 1);
    generation++;
    if (kind == 's') setsid();
    if (kind == 'n') nanosleep(&(struct timespec){0, 1000000}, 0);
    while (clone(hop, stacks[generation % 8] + sizeof stacks[0] - 64, CLONE_VM | SIGCHLD, 0) < 0) usleep(50);
    syscall(SYS_exit, 0);
    return 0;
}

/* Two for each that ends, as long as there is room. Of the third generation there may be nobody: room ends before. */
static void breed(void) {
    for (;; generation++) {
        if (generation == 1) __sync_fetch_and_add(at_it, 1);
        while (fork() < 0) usleep(50);
        if (fork() > 0) _exit(0);
    }
}

static void *outlive(void *unused) {
    (void)unused;
    for (;;) {
        pid_t child;
        while ((child = fork()) < 0) usleep(50);
        if (child > 0) syscall(SYS_exit_group, 0);
        if (generation++ == 3) __sync_fetch_and_add(at_it, 1);
        pthread_t next;
        if (pthread_create(&next, 0, outlive, 0) == 0) syscall(SYS_exit, 0);
    }
}

int main(int count, char **arguments) {
    if (count < 3) return 2;
    kind = arguments[1][0];
    int many = atoi(arguments[2]);
    at_it = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int begun = 0;
    for (int n = 0; n < many; n++) {
        pid_t child = fork();
        begun += child > 0;
        if (child != 0) continue;
        /* Not of a crowd: with a share of the processors for each session nobody else would get far, the test included. */
        if (kind != 'b') setsid();
        /* Whose it is can't be told any more: it may be any agent's. */
        struct rlimit low = {0, 0};
        if (kind == 'm') setrlimit(RLIMIT_LOCKS, &low), setrlimit(RLIMIT_RTTIME, &low);
        if (kind == 'b') breed();
        if (kind == 'l') outlive(0);
        hop(0);
    }
    /* Of a crowd that fills all room not everybody comes to it. */
    while (*at_it < (kind == 'b' ? 1 : begun)) usleep(100);
    return 7;
}
