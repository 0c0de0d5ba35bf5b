/* What a program may have in its registers survives everything that can come between two of its
 * instructions: other processes, signals, system calls; and what it may not do kills it alone.
 * For x86-64. Built statically against the host's C library; prints the same on every kernel. */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { CHILDREN = 4, ROUNDS = 5, SIGNALS = 10, ALARM_US = 10000, HIT = 1000 };

#define NOT_CANONICAL 0x8000000000000000ul
#define UNMAPPED 0xdead000ul
#define KERNEL_TEXT 0xffffffff80209000ul

static volatile int signals;
static int failures;

static void expect(const char *what, int good)
{
    printf("%s: %s\n", what, good ? "ok" : "WRONG");
    failures += !good;
}

/* Leaves nothing as it was in the vector registers. */
__attribute__((target("avx"))) static void trash_avx(void)
{
    __asm__ volatile("vzeroall" ::: "xmm0", "xmm5", "xmm15");
}

static void on_alarm(int number)
{
    (void)number;
    signals++;
    if (__builtin_cpu_supports("avx"))
        trash_avx();
    else
        __asm__ volatile("pxor %%xmm5, %%xmm5" ::: "xmm5");
}

/* Waits for `target` signals with numbers in ymm5 and ymm15, then looks at their sum. */
__attribute__((target("avx"))) static int keep_avx(double value, int target)
{
    double in[4] = { value, value + 1, value + 2, value + 3 }, out[4];

    __asm__ volatile("vmovupd %1, %%ymm5\n"
                     "vmovupd %1, %%ymm15\n"
                     "1: cmpl %3, %0\n"
                     "jl 1b\n"
                     "vaddpd %%ymm5, %%ymm15, %%ymm5\n"
                     "vmovupd %%ymm5, %2"
                     : "+m"(signals), "+m"(in), "=m"(out)
                     : "r"(target)
                     : "xmm5", "xmm15", "memory");
    return out[0] == 2 * in[0] && out[1] == 2 * in[1] && out[2] == 2 * in[2] && out[3] == 2 * in[3];
}

static int keep_sse(double value, int target)
{
    double out = 0;

    __asm__ volatile("movsd %1, %%xmm5\n"
                     "1: cmpl %3, %0\n"
                     "jl 1b\n"
                     "movsd %%xmm5, %2"
                     : "+m"(signals), "+m"(value), "=m"(out)
                     : "r"(target)
                     : "xmm5", "memory");
    return out == value;
}

static void vectors(void)
{
    struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
    struct itimerval timer = { { 0, ALARM_US }, { 0, ALARM_US } };
    int good = 1;

    sigaction(SIGALRM, &action, NULL);
    for (int child = 0; child < CHILDREN; child++) {
        if (fork() == 0) {
            int bad = 0;
            setitimer(ITIMER_REAL, &timer, NULL);
            for (int round = 0; round < ROUNDS; round++) {
                double value = child * 100 + round;
                signals = 0;
                bad += __builtin_cpu_supports("avx") ? !keep_avx(value, SIGNALS) : !keep_sse(value, SIGNALS);
            }
            _exit(bad);
        }
    }
    for (int child = 0; child < CHILDREN; child++) {
        int status = -1;
        wait(&status);
        good &= status == 0;
    }
    expect("vector registers across processes and signals", good);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    ucontext_t *interrupted = context;

    if (number == SIGSEGV && info->si_code == SEGV_MAPERR && info->si_addr == (void *)UNMAPPED)
        signals += HIT;
    interrupted->uc_mcontext.gregs[REG_RIP] += 2; /* over the load */
}

static int faults_once(void)
{
    signals = 0;
    __asm__ volatile("movb (%0), %%al" : : "r"(UNMAPPED) : "rax", "memory");
    return signals == HIT;
}

static void handlers(void)
{
    struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
    stack_t stack = { .ss_sp = malloc(65536), .ss_size = 65536 }, now = { 0 };

    sigaction(SIGSEGV, &action, NULL);
    expect("a handler that steps over the fault", faults_once());
    sigaltstack(&stack, NULL);
    action.sa_flags |= SA_ONSTACK;
    sigaction(SIGSEGV, &action, NULL);
    expect("the same on a stack of its own", faults_once());
    sigaltstack(NULL, &now);
    expect("the other stack is still known", now.ss_sp == stack.ss_sp && now.ss_flags == 0);
    signal(SIGSEGV, SIG_DFL);
}

static unsigned long gs_word(void)
{
    unsigned long word;
    __asm__ volatile("mov %%gs:0, %0" : "=r"(word));
    return word;
}

static void bases(void)
{
    static unsigned long word = 0x1234;
    unsigned long fs = 0, self;
    int status = -1;

    syscall(SYS_arch_prctl, ARCH_GET_FS, &fs);
    __asm__("mov %%fs:0, %0" : "=r"(self));
    expect("the base of FS", fs == self);
    syscall(SYS_arch_prctl, ARCH_SET_GS, &word);
    expect("the base of GS", gs_word() == word);
    if (fork() == 0)
        _exit(gs_word() != word);
    wait(&status);
    expect("the base of GS in a child", status == 0);
    expect("a base that no register takes", syscall(SYS_arch_prctl, ARCH_SET_FS, NOT_CANONICAL) == -1);
}

static void invalid(void) { __asm__ volatile("ud2"); }
static void privileged(void) { __asm__ volatile("hlt"); }
static void breakpoint(void) { __asm__ volatile("int3"); }
static void divide(void) { __asm__ volatile("divl %0" : : "r"(0), "a"(1), "d"(0)); }
static void load(unsigned long from) { __asm__ volatile("mov (%0), %%rax" : : "r"(from) : "rax"); }
static void load_not_canonical(void) { load(NOT_CANONICAL); }
static void load_kernel(void) { load(KERNEL_TEXT); }
static void jump_not_canonical(void) { __asm__ volatile("jmp *%0" : : "r"(NOT_CANONICAL)); }
static void jump_kernel(void) { __asm__ volatile("jmp *%0" : : "r"(KERNEL_TEXT)); }

static void run_data(void)
{
    static unsigned char code[] = { 0xc3 };
    __asm__ volatile("call *%0" : : "r"(code) : "memory");
    _exit(0);
}

/* rt_sigreturn from a frame of which every register, rip and rsp too, is `value`. */
static void return_to(unsigned long value)
{
    static unsigned long frame[128];

    for (int i = 6; i < 24; i++)
        frame[i] = value;
    frame[24] = 0x002b000000000033; /* ss, cs */
    __asm__ volatile("mov %0, %%rsp\n syscall" : : "r"(frame + 1), "a"(SYS_rt_sigreturn) : "memory");
}

static void return_nowhere(void) { return_to(NOT_CANONICAL); }
static void return_to_kernel(void) { return_to(KERNEL_TEXT); }

/* The alignment check is the program's own business: the kernel does not inherit it. */
static void alignment_flag(void)
{
    __asm__ volatile("sub $128, %%rsp\n pushf\n orl $0x40000, (%%rsp)\n popf\n"
                     "mov %0, %%eax\n syscall\n"
                     "pushf\n andl $~0x40000, (%%rsp)\n popf\n add $128, %%rsp"
                     : : "i"(SYS_getpid) : "rax", "rcx", "r11", "memory");
    _exit(0);
}

static void deaths(void)
{
    static const struct {
        const char *what;
        void (*how)(void);
        int signal;
    } table[] = {
        { "an invalid instruction", invalid, SIGILL },
        { "a privileged instruction", privileged, SIGSEGV },
        { "a breakpoint", breakpoint, SIGTRAP },
        { "a division by zero", divide, SIGFPE },
        { "a load from no address", load_not_canonical, SIGSEGV },
        { "a load from the kernel", load_kernel, SIGSEGV },
        { "a jump to no address", jump_not_canonical, SIGSEGV },
        { "a jump into the kernel", jump_kernel, SIGSEGV },
        { "data as code", run_data, SIGSEGV },
        { "a signal frame with no addresses", return_nowhere, SIGSEGV },
        { "a signal frame with the kernel's addresses", return_to_kernel, SIGSEGV },
        { "alignment checks across a system call", alignment_flag, 0 },
    };

    for (unsigned i = 0; i < sizeof table / sizeof *table; i++) {
        int status = -1;
        pid_t child = fork();
        if (child == 0) {
            table[i].how();
            _exit(99);
        }
        waitpid(child, &status, 0);
        expect(table[i].what, table[i].signal == 0 ? status == 0 : WIFSIGNALED(status) && WTERMSIG(status) == table[i].signal);
    }
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    vectors();
    handlers();
    bases();
    deaths();
    printf("registers: %d parts failed\n", failures);
    return failures != 0;
}
