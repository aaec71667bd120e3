/* What a runtime hides: descriptors before anything opened one, other tables of system calls, threads by hand.
 *
 * The guard first: these attempts are real, and nothing is tried where it isn't plainly the inside of our cage.
 * One line an attempt, as probe.py's: kind, name, expect, got, said, why.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int status_is(const char *field, const char *wanted) {
    char line[256];
    FILE *f = fopen("/proc/self/status", "re");
    int right = 0;
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, field, strlen(field)) && line[strlen(field)] == ':')
            right = !strcmp(line + strlen(field) + 2, wanted);
    if (f) fclose(f);
    return right;
}

static int caged(void) {
    struct statvfs root, usr;
    char cwd[64] = "";
    return getuid() == 1000 && geteuid() == 1000 && status_is("NoNewPrivs", "1\n") && status_is("Seccomp", "2\n") &&
           status_is("CapEff", "0000000000000000\n") && status_is("CapBnd", "0000000000000000\n") &&
           getcwd(cwd, sizeof cwd) && !strcmp(cwd, "/sandbox") && !access("/run/cofferdam/ca-bundle.pem", R_OK) &&
           !statvfs("/", &root) && (root.f_flag & ST_RDONLY) && !statvfs("/usr", &usr) && (usr.f_flag & ST_RDONLY) &&
           access("/etc/shadow", F_OK) && access("/root", F_OK);
}

static void told(const char *kind, const char *name, const char *expect, const char *got, const char *why) {
    printf("{\"kind\":\"%s\",\"name\":\"%s\",\"expect\":[%s],\"got\":\"%s\",\"said\":\"\",\"why\":\"%s\"}\n", kind, name,
           expect, got, why);
    fflush(stdout);
}

/* The outcome of `action` in a child: what killed it, its errno, or "works". */
static const char *outcome(long (*action)(void)) {
    static char text[32];
    int ended = 0;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(20);
        errno = 0;
        long result = action();
        /* The raw tables answer with -errno. */
        _exit(result < 0 ? (result == -1 && errno ? errno : (int)-result) : 0);
    }
    waitpid(pid, &ended, 0);
    if (WIFSIGNALED(ended)) snprintf(text, sizeof text, "SIG%s", sigabbrev_np(WTERMSIG(ended)));
    else if (WEXITSTATUS(ended)) snprintf(text, sizeof text, "%s", strerrorname_np(WEXITSTATUS(ended)));
    else snprintf(text, sizeof text, "works");
    return text;
}

static void attack(const char *name, const char *expect, const char *why, long (*action)(void)) {
    told("attack", name, expect, outcome(action), why);
}
static void control(const char *name, const char *why, long (*action)(void)) {
    told("control", name, "\"works\"", outcome(action), why);
}

/* --- other tables ------------------------------------------------------------------------------------------------- */
#ifdef __x86_64__
static long int80(uint32_t number, uint32_t one) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(one) : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}
static long int80_getpid(void) { return int80(20, 0); }
static long int80_exit(void) { int80(1, 0); return 0; }
static long int80_ptrace(void) { return int80(26, 0); }
static long x32_getpid(void) { return syscall(0x40000000 | SYS_getpid); }
static long x32_ptrace(void) { return syscall(0x40000000 | 521, 0, 0, 0, 0); }
static long x32_top(void) { return syscall(0x40000000L | 1000); }
/* 32-bit code in our own address space: a far return into the compatibility segment, then sysenter's table. */
static long far_32(void) {
    static const unsigned char code[] = {0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0x0f, 0x0b}; /* mov eax,20; int 0x80; ud2 */
    unsigned char *low = mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (low == MAP_FAILED) return -1;
    memcpy(low, code, sizeof code);
    __asm__ volatile("mov %0, %%rsp; push $0x23; push $0x10000000; lretq" : : "r"(low + 4000) : "memory");
    return 0;
}
#endif

/* --- threads by hand ---------------------------------------------------------------------------------------------- */
static int nothing_to_do(void *unused) { (void)unused; return 0; }
static long by_clone(int flags) {
    static char stack[1 << 16] __attribute__((aligned(16)));
    return clone(nothing_to_do, stack + sizeof stack, flags, NULL) < 0 ? -1 : 0;
}
static long thread_sharing_all(void) { return by_clone(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD); }
static long thread_without_files(void) { return by_clone(CLONE_VM | CLONE_FS | CLONE_SIGHAND | CLONE_THREAD); }
static long process_sharing_files(void) { return by_clone(CLONE_FILES | SIGCHLD); }
static long process_with_namespace(void) { return by_clone(CLONE_NEWUSER | CLONE_NEWNET | SIGCHLD); }
static long sibling_of_ours(void) { return by_clone(CLONE_PARENT | SIGCHLD); }
static long clone3_thread(void) {
    struct clone_args args = {.flags = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD};
    return syscall(SYS_clone3, &args, sizeof args);
}
static long clone3_namespace(void) {
    struct clone_args args = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
    return syscall(SYS_clone3, &args, sizeof args);
}
static long unshare_in_a_thread_result;
static void *unshare_in_a_thread(void *unused) {
    (void)unused;
    unshare_in_a_thread_result = unshare(CLONE_NEWUSER) ? -errno : 0;
    return NULL;
}
static long thread_unshares(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, unshare_in_a_thread, NULL)) return -1;
    pthread_join(thread, NULL);
    errno = (int)-unshare_in_a_thread_result;
    return unshare_in_a_thread_result ? -1 : 0;
}
static void *signals_init(void *unused) { (void)unused; unshare_in_a_thread_result = syscall(SYS_tgkill, 1, 1, SIGKILL) ? -errno : 0; return NULL; }
static long thread_signals_init(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, signals_init, NULL)) return -1;
    pthread_join(thread, NULL);
    errno = (int)-unshare_in_a_thread_result;
    return unshare_in_a_thread_result ? -1 : 0;
}
static void *nothing_in_a_thread(void *unused) { return unused; }
static long many_threads(void) {
    pthread_t threads[64];
    for (int i = 0; i < 64; i++)
        if (pthread_create(&threads[i], NULL, nothing_in_a_thread, NULL)) return -1;
    for (int i = 0; i < 64; i++) pthread_join(threads[i], NULL);
    return 0;
}
static volatile sig_atomic_t handled;
static void handler(int number) { (void)number; handled++; }
static long signal_a_thread(void) {
    signal(SIGUSR1, handler);
    pthread_kill(pthread_self(), SIGUSR1);
    return handled == 1 ? 0 : -1;
}
static long vforked(void) {
    int ended = 0;
    pid_t pid = vfork();
    if (pid == 0) { execl("/bin/true", "true", NULL); _exit(1); }
    return pid > 0 && waitpid(pid, &ended, 0) == pid && ended == 0 ? 0 : -1;
}

/* --- programs without a file ----------------------------------------------------------------------------------------- */
static long run_from_memory(void) {
    char buffer[65536];
    ssize_t n;
    int from = open("/bin/true", O_RDONLY | O_CLOEXEC), to = syscall(SYS_memfd_create, "x", MFD_CLOEXEC);
    while ((n = read(from, buffer, sizeof buffer)) > 0)
        if (write(to, buffer, n) != n) return -1;
    char *arguments[] = {"true", NULL}, *environment[] = {NULL};
    fexecve(to, arguments, environment);
    return -1;
}
static long self_mem_write(void) { return open("/proc/self/mem", O_RDWR) < 0 ? -1 : 0; }
static long thread_self_mem_write(void) { return open("/proc/thread-self/mem", O_WRONLY) < 0 ? -1 : 0; }

int main(void) {
    /* Before stdio, the locale or anything else opens a file; the limit is 65536. */
    static char open_ones[512];
    int leaked = 0;
    for (int fd = 3; fd < 65536; fd++)
        if (fcntl(fd, F_GETFD) != -1) {
            leaked++;
            snprintf(open_ones + strlen(open_ones), sizeof open_ones - strlen(open_ones), "%d ", fd);
            if (strlen(open_ones) > 400) break;
        }
    int streams = 0;
    for (int fd = 0; fd < 3; fd++) streams += fcntl(fd, F_GETFD) != -1;
    sigset_t blocked;
    sigprocmask(SIG_BLOCK, NULL, &blocked);
    int any_blocked = 0, any_ignored = 0;
    for (int number = 1; number < 65; number++) {
        struct sigaction action;
        if (number == SIGKILL || number == SIGSTOP || number == 32 || number == 33) continue;
        any_blocked += sigismember(&blocked, number) == 1;
        if (!sigaction(number, NULL, &action)) any_ignored += action.sa_handler != SIG_DFL;
    }
    if (!caged()) {
        fputs("not inside a whole cage: refusing to try anything\n", stderr);
        return 99;
    }
    told("attack", "inherit a descriptor", "\"nothing\"", leaked ? open_ones : "nothing", "one directory of the host's is the host");
    told("control", "three streams are open", "\"works\"", streams == 3 ? "works" : "not", "a closed one would be the next file opened");
    told("attack", "inherit a blocked signal", "\"nothing\"", any_blocked ? "some" : "nothing", "it could not be ended as meant");
    told("attack", "inherit an ignored signal", "\"nothing\"", any_ignored ? "some" : "nothing", "it could not be ended as meant");
#ifdef __x86_64__
    attack("int 0x80 getpid", "\"SIGSYS\"", "the 32-bit table has other numbers: whatever the filter allows is something else there", int80_getpid);
    attack("int 0x80 exit", "\"SIGSYS\"", "not even a harmless one", int80_exit);
    attack("int 0x80 ptrace", "\"SIGSYS\"", "26 is ptrace there, and msync here", int80_ptrace);
    attack("x32 getpid", "\"SIGSYS\"", "a third table under the same architecture", x32_getpid);
    attack("x32 ptrace", "\"SIGSYS\"", "521 is ptrace there", x32_ptrace);
    attack("x32 unknown", "\"SIGSYS\"", "bit 30 alone decides", x32_top);
    attack("32-bit code in 64-bit memory", "\"SIGSYS\"", "a far return changes the processor's mode, and with it the table", far_32);
#endif
    control("a thread by hand that shares all", "that is what threads are", thread_sharing_all);
    attack("a process with descriptors in common with another", "\"EPERM\"", "a table could change while its process sleeps", process_sharing_files);
    attack("a thread with descriptors of its own", "\"EPERM\"", "the holders of a socket could not be found by looking at processes", thread_without_files);
    attack("a process in new namespaces by clone", "\"EPERM\"", "in a namespace of its own it would be its root", process_with_namespace);
    attack("a thread by clone3", "\"ENOSYS\"", "its flags lie in memory", clone3_thread);
    attack("a namespace by clone3", "\"ENOSYS\"", "its flags lie in memory", clone3_namespace);
    attack("a namespace from a thread", "\"EPERM\"", "every thread stands under the filter", thread_unshares);
    attack("kill init from a thread", getenv("SCOPED") ? "\"EPERM\"" : "\"EPERM\", \"works\"", "every thread is in the Landlock domain", thread_signals_init);
    /* From here, and not from a child of ours: its parent is then ours, init. */
    told("control", "be init's child", "\"works\"", sibling_of_ours() ? "not" : "works", "CLONE_PARENT is allowed; init reaps what it never started");
    control("sixty-four threads", "threads are ordinary work", many_threads);
    control("signal a thread", "signals are ordinary work", signal_a_thread);
    control("vfork and exec", "how make and gcc start programs", vforked);
    control("run a program from memory", "allowed; by identity it has no name, and reaches nothing", run_from_memory);
    attack("write one's own memory by /proc/self/mem", "\"EROFS\"", "ptrace without ptrace(2)", self_mem_write);
    attack("write a thread's memory by /proc/thread-self", "\"EROFS\"", "the same file by a third path", thread_self_mem_write);
    return 0;
}
