/* Processes and threads where they meet: who waits for whom, what exec leaves alone, which thread a
 * signal reaches. Prints the same on every kernel. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MS = 1000000, WELL = 42, PAGE = 4096 };

static int failed;
static char *self;

static void expect(const char *what, int is)
{
    printf("%s: %s\n", what, is ? "ok" : "WRONG");
    fflush(stdout);
    failed += !is;
}

static int rest(long ms)
{
    struct timespec time = { ms / 1000, ms % 1000 * MS };
    return nanosleep(&time, NULL);
}

static long now_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / MS;
}

static int exited_well(pid_t child)
{
    int status = 0;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == WELL;
}

static int killed_by(pid_t child, int signal)
{
    int status = 0;
    return waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == signal;
}

/* ---- vfork: the parent sleeps until the child runs another program or ends ---- */

/* What both see, as they share memory: how far the child is. */
static volatile int step;
static int pipes[2];

enum { FORKED, FAILED_EXEC, LAST };

static void vforks_and_exit(void)
{
    step = FORKED;
    pid_t child = vfork();
    if (child == 0) {
        /* A parent that goes on meanwhile reads an early step. */
        rest(50);
        step = FAILED_EXEC;
        execl("/nowhere", "nowhere", (char *)NULL);
        rest(50);
        step = LAST;
        _exit(WELL);
    }
    int seen = step;
    expect("vfork waits for exit, and not for an exec that fails", seen == LAST);
    expect("the child's status", exited_well(child));
}

static void vforks_and_execs(void)
{
    char number[16];
    pipe(pipes);
    snprintf(number, sizeof number, "%d", pipes[0]);
    step = FORKED;
    pid_t child = vfork();
    if (child == 0) {
        rest(50);
        step = LAST;
        /* It ends well when its parent writes: a parent that waits for its end does not. */
        execl(self, self, "reads", number, (char *)NULL);
        _exit(1);
    }
    int seen = step;
    write(pipes[1], "x", 1);
    expect("vfork waits for exec", seen == LAST);
    expect("and no longer", exited_well(child));
    close(pipes[0]);
    close(pipes[1]);
}

static int reads(const char *number)
{
    struct pollfd wait = { .fd = atoi(number), .events = POLLIN };
    char byte;
    return poll(&wait, 1, 10000) == 1 && read(wait.fd, &byte, 1) == 1 ? WELL : 1;
}

static void vforks_and_is_killed(void)
{
    step = FORKED;
    pid_t child = vfork();
    if (child == 0) {
        rest(50);
        step = LAST;
        kill(getpid(), SIGKILL);
    }
    int seen = step;
    expect("vfork waits for the child's death", seen == LAST && killed_by(child, SIGKILL));
}

static void the_parent_of_a_vfork_is_killed(int signal, const char *what)
{
    pipe(pipes);
    pid_t parent = fork();
    if (parent == 0) {
        close(pipes[1]);
        if (vfork() == 0) {
            /* Holds its parent until the pipe is closed. */
            char byte;
            read(pipes[0], &byte, 1);
            _exit(0);
        }
        _exit(1);
    }
    close(pipes[0]);
    rest(100);
    long before = now_ms();
    kill(parent, signal);
    int status = 0, waited = 0;
    while (now_ms() - before < 3000 && (waited = waitpid(parent, &status, WNOHANG)) == 0)
        rest(10);
    expect(what, waited == parent && WIFSIGNALED(status) && WTERMSIG(status) == signal);
    /* A parent that could not be killed goes on now. */
    close(pipes[1]);
    if (waited == 0)
        waitpid(parent, &status, 0);
}

/* ---- exec ---- */

/* Run as another program: the descriptor must be closed. */
static int is_closed(const char *number)
{
    return fcntl(atoi(number), F_GETFD) < 0 && errno == EBADF ? WELL : 1;
}

static void execs_with_shared_descriptors(void)
{
    char number[16];
    int file = open(self, O_RDONLY | O_CLOEXEC);
    snprintf(number, sizeof number, "%d", file);
    pid_t child = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        execl(self, self, "closed", number, (char *)NULL);
        _exit(1);
    }
    expect("exec closes what it must", exited_well(child));
    expect("but not for others", fcntl(file, F_GETFD) == FD_CLOEXEC);
    child = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        close(file);
        _exit(WELL);
    }
    expect("a child without exec closes", exited_well(child));
    expect("for all", fcntl(file, F_GETFD) < 0);
}

static void *execs(void *unused)
{
    (void)unused;
    execl(self, self, "numbers", (char *)NULL);
    _exit(1);
}

/* Run as another program, by a thread that was not the first: it is now. */
static int numbers_agree(void)
{
    return syscall(SYS_gettid) == getpid() ? WELL : 1;
}

static void another_thread_execs(void)
{
    pid_t child = fork();
    if (child == 0) {
        pthread_t other;
        pthread_create(&other, NULL, execs, NULL);
        for (;;)
            pause();
    }
    expect("exec by a second thread makes it the first", exited_well(child));
    child = fork();
    if (child == 0) {
        pthread_t other;
        pthread_create(&other, NULL, execs, NULL);
        pthread_exit(NULL);
    }
    expect("also where the first has ended", exited_well(child));
}

/* ---- signals ---- */

static volatile pid_t took[2];
static volatile int released;

static void handle_first(int signal)
{
    (void)signal;
    took[0] = syscall(SYS_gettid);
    /* Holds the second signal back until another thread has taken it. */
    for (int turn = 0; turn < 200 && took[1] == 0; turn++)
        rest(10);
}

static void handle_second(int signal)
{
    (void)signal;
    took[1] = syscall(SYS_gettid);
}

static void *sleeps(void *cut)
{
    static int word;
    struct timespec time = { 0, 700 * MS };
    long result = syscall(SYS_futex, &word, FUTEX_WAIT, 0, &time, NULL, 0);
    *(int *)cut = result != -1 || errno != ETIMEDOUT;
    return NULL;
}

static void *sends_both(void *unused)
{
    sigset_t both;
    (void)unused;
    sigemptyset(&both);
    sigaddset(&both, SIGUSR1);
    sigaddset(&both, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &both, NULL);
    rest(100);
    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGUSR2);
    while (!released)
        rest(10);
    return NULL;
}

static void waits(volatile pid_t *what)
{
    for (int turn = 0; turn < 300 && *what == 0; turn++)
        rest(10);
}

static void signals_reach_one_thread(void)
{
    struct sigaction action = { .sa_handler = handle_second };
    pthread_t sleeper;
    int cut = 0;

    sigaction(SIGUSR2, &action, NULL);
    took[1] = 0;
    pthread_create(&sleeper, NULL, sleeps, &cut);
    rest(200);
    kill(getpid(), SIGUSR2);
    waits(&took[1]);
    pthread_join(sleeper, NULL);
    expect("the first thread takes a signal", took[1] == getpid());
    expect("and the others sleep on", !cut);

    pthread_t sender;
    took[0] = took[1] = 0;
    action.sa_handler = handle_first;
    sigaddset(&action.sa_mask, SIGUSR2);
    sigaction(SIGUSR1, &action, NULL);
    pthread_create(&sleeper, NULL, sleeps, &cut);
    pthread_create(&sender, NULL, sends_both, NULL);
    waits(&took[0]);
    int second = took[1];
    released = 1;
    pthread_join(sender, NULL);
    pthread_join(sleeper, NULL);
    expect("what one thread holds back another takes", second != 0 && second != took[0]);
}

/* ---- futexes ---- */

static void a_futex_is_high_up(void)
{
    /* Above what programs get unasked, where the machine has it. */
    void *high = (void *)(1ul << (sizeof(long) == 8 ? 48 : 30));
    void *at = mmap(high, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expect("memory high up", at != MAP_FAILED);
    expect("a futex there", syscall(SYS_futex, at, FUTEX_WAKE, 1, NULL, NULL, 0) == 0);
    munmap(at, PAGE);
    long bad = syscall(SYS_futex, -(long)PAGE, FUTEX_WAKE, 1, NULL, NULL, 0);
    expect("and none in the kernel", bad < 0 && errno == EFAULT);
}

/* ---- what a program starts with, and how it asks ---- */

static void execs_without_arguments(void)
{
    pid_t child = fork();
    if (child == 0) {
        syscall(SYS_execve, self, NULL, NULL);
        _exit(1);
    }
    expect("a program without arguments has a name", exited_well(child));
}

static void numbers_have_32_bits(void)
{
    long number = SYS_getpid;
#if defined(__x86_64__) || defined(__aarch64__)
    number |= 1l << 40;
#endif
    expect("the number of a call has 32 bits", syscall(number) == getpid());
}

static char signal_stack[1 << 16];
static volatile int flags_there, refused_there;

static void on_its_stack(int signal)
{
    stack_t now, other = { .ss_flags = SS_DISABLE };
    (void)signal;
    sigaltstack(NULL, &now);
    flags_there = now.ss_flags;
    refused_there = sigaltstack(&other, NULL) < 0 && errno == EPERM;
}

static void signals_have_their_stack(void)
{
    stack_t none, mine = { .ss_sp = signal_stack, .ss_size = sizeof signal_stack }, now;
    struct sigaction action = { .sa_handler = on_its_stack, .sa_flags = SA_ONSTACK };
    sigaltstack(NULL, &none);
    sigaltstack(&mine, NULL);
    sigaltstack(NULL, &now);
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    expect("no signal stack at first", none.ss_flags == SS_DISABLE);
    expect("not on it outside of a handler", now.ss_flags == 0);
    expect("on it inside", flags_there == SS_ONSTACK && refused_there);
    mine.ss_flags = 16;
    expect("no other flags", sigaltstack(&mine, NULL) < 0 && errno == EINVAL);
    mine.ss_flags = SS_DISABLE;
    sigaltstack(&mine, NULL);
}

int main(int argc, char **argv)
{
    self = argv[0];
    if (argc == 1 && *self == '\0')
        return WELL;
    if (argc == 3 && strcmp(argv[1], "reads") == 0)
        return reads(argv[2]);
    if (argc == 3 && strcmp(argv[1], "closed") == 0)
        return is_closed(argv[2]);
    if (argc == 2 && strcmp(argv[1], "numbers") == 0)
        return numbers_agree();

    vforks_and_exit();
    vforks_and_execs();
    vforks_and_is_killed();
    the_parent_of_a_vfork_is_killed(SIGKILL, "a parent in vfork can be killed");
    the_parent_of_a_vfork_is_killed(SIGTERM, "and terminated");
    execs_with_shared_descriptors();
    another_thread_execs();
    signals_reach_one_thread();
    a_futex_is_high_up();
    execs_without_arguments();
    numbers_have_32_bits();
    signals_have_their_stack();
    printf("processes: %d parts went wrong\n", failed);
    return failed != 0;
}
