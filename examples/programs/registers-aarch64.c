/* What a program may have in its registers survives everything that can come between two of its
 * instructions: other processes, signals, system calls; what it wrote as code runs; and what it may
 * not do kills it alone. For AArch64. Built statically; prints the same on every kernel. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { CHILDREN = 4, ROUNDS = 5, SIGNALS = 10, ALARM_US = 10000, HIT = 1000, PAGE = 4096 };

#define NOT_CANONICAL 0x8000000000000000ul
#define UNMAPPED 0xdead000ul
#define KERNEL_TEXT 0xffff800000001000ul
#define EL1 0x3c5ul

static volatile int signals;
static int failures;

static void expect(const char *what, int good)
{
    printf("%s: %s\n", what, good ? "ok" : "WRONG");
    failures += !good;
}

/* Leaves nothing as it was in the vector registers, nor in the scratch registers. */
static void on_alarm(int number)
{
    (void)number;
    signals++;
    __asm__ volatile("movi v5.16b, #0xee\n movi v15.16b, #0xee\n movi v31.16b, #0xee\n"
                     "msr fpsr, xzr\n mov x9, #-1\n mov x17, #-1\n mov x20, #-1\n cmp x9, x9"
                     ::: "v5", "v15", "v31", "x9", "x17", "x20", "cc", "memory");
}

/* Waits for `target` signals with numbers in registers of all kinds, then looks at them. */
static int keep(uint64_t value, int target)
{
    uint64_t in[2] = { value, ~value }, out[4] = { 0 }, sum = 0, flags = 0;

    __asm__ volatile("ldr q5, [%[in]]\n"
                     "ldr q15, [%[in]]\n"
                     "ldr q31, [%[in]]\n"
                     "mov x9, %[value]\n"
                     "mov x17, %[value]\n"
                     "mov x20, %[value]\n"
                     "msr fpsr, %[value]\n"
                     "1: ldr w10, [%[signals]]\n"
                     "cmp w10, %w[target]\n"
                     "b.lt 1b\n"
                     "eor v5.16b, v5.16b, v15.16b\n"
                     "str q5, [%[out]]\n"
                     "str q31, [%[out], #16]\n"
                     "mrs %[flags], fpsr\n"
                     "add %[sum], x9, x17\n"
                     "add %[sum], %[sum], x20\n"
                     : [sum] "=&r"(sum), [flags] "=&r"(flags)
                     : [in] "r"(in), [out] "r"(out), [signals] "r"(&signals), [target] "r"(target),
                       [value] "r"(value)
                     : "v5", "v15", "v31", "x9", "x10", "x17", "x20", "cc", "memory");
    return out[0] == 0 && out[1] == 0 && out[2] == in[0] && out[3] == in[1] && sum == 3 * value &&
           (flags & 0x1f) == (value & 0x1f);
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
                signals = 0;
                bad += !keep(child * 100 + round, SIGNALS);
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

/* A system call changes x0 and nothing else. */
static void system_calls(void)
{
    unsigned long pid, changed;

    __asm__ volatile("mov x19, #19\n mov x7, #7\n mov x18, #18\n mov x30, #30\n"
                     "mov x8, %[number]\n svc #0\n"
                     "mov %[pid], x0\n"
                     "sub %[changed], x19, #19\n"
                     "eor x7, x7, #7\n orr %[changed], %[changed], x7\n"
                     "sub x18, x18, #18\n orr %[changed], %[changed], x18\n"
                     "eor x30, x30, #30\n orr %[changed], %[changed], x30\n"
                     "sub x8, x8, %[number]\n orr %[changed], %[changed], x8\n"
                     : [pid] "=&r"(pid), [changed] "=&r"(changed)
                     : [number] "i"(SYS_getpid)
                     : "x0", "x7", "x8", "x18", "x19", "x30", "memory");
    expect("a system call changes its result only", pid == (unsigned long)getpid() && changed == 0);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    ucontext_t *interrupted = context;

    if (number == SIGSEGV && info->si_code == SEGV_MAPERR && info->si_addr == (void *)UNMAPPED &&
        interrupted->uc_mcontext.fault_address == UNMAPPED)
        signals += HIT;
    interrupted->uc_mcontext.pc += 4; /* over the load */
}

static int faults_once(void)
{
    signals = 0;
    __asm__ volatile("ldrb w9, [%0]" : : "r"(UNMAPPED) : "x9", "memory");
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

static unsigned long thread_pointer(void)
{
    unsigned long word;
    __asm__ volatile("mrs %0, tpidr_el0" : "=r"(word));
    return word;
}

static void bases(void)
{
    unsigned long own = thread_pointer();
    int status = -1;

    if (fork() == 0)
        _exit(thread_pointer() != own);
    wait(&status);
    expect("the thread pointer in a child", own != 0 && status == 0);
}

/* Code that is written anew, at one address and at another of the same page of memory. */
static void code(void)
{
    static const uint32_t numbers[] = { 1, 4095, 77 };
    uint32_t *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int good = 1;

    for (unsigned round = 0; round < sizeof numbers / sizeof *numbers; round++) {
        mprotect(page, PAGE, PROT_READ | PROT_WRITE);
        page[0] = 0x52800000 | numbers[round] << 5; /* mov w0, #number */
        page[1] = 0xd65f03c0;                       /* ret */
        __builtin___clear_cache((char *)page, (char *)(page + 2));
        mprotect(page, PAGE, PROT_READ | PROT_EXEC);
        good &= ((uint32_t (*)(void))page)() == numbers[round];
    }
    expect("code that was just written", good);
    good = 1;
    mprotect(page, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    for (uint32_t number = 1; number < 50; number++) {
        page[0] = 0x52800000 | number << 5;
        __builtin___clear_cache((char *)page, (char *)(page + 2));
        good &= ((uint32_t (*)(void))page)() == number;
    }
    expect("code in a page that stays writable", good);
}

/* What the C library's memset uses. */
static void zero(void)
{
    static char block[PAGE] __attribute__((aligned(4096)));
    unsigned long size;

    __asm__("mrs %0, dczid_el0" : "=r"(size));
    memset(block, 1, sizeof block);
    if (size & 0x10)
        memset(block, 0, 64);
    else
        __asm__ volatile("dc zva, %0" : : "r"(block) : "memory");
    expect("zeroing a block of a cache", block[0] == 0 && block[63] == 0 && block[PAGE - 1] == 1);
}

/* The top byte of an address is the program's own, also where the page comes only now. */
static void tags(void)
{
    char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    volatile char *tagged = (char *)((uintptr_t)page | 0x5aul << 56);

    *tagged = 7;
    expect("a tag in an address", *page == 7 && *tagged == 7);
}

static void invalid(void) { __asm__ volatile(".inst 0"); }
static void privileged(void) { __asm__ volatile("msr vbar_el1, xzr"); }
static void masked(void) { __asm__ volatile("msr daifset, #2"); }
static void hypercall(void) { __asm__ volatile("hvc #0"); }
static void halt(void) { __asm__ volatile("hlt #0xf000" : : : "x0"); }
static void breakpoint(void) { __asm__ volatile("brk #0"); }
static void load(unsigned long from) { __asm__ volatile("ldr x9, [%0]" : : "r"(from) : "x9"); }
static void load_not_canonical(void) { load(NOT_CANONICAL); }
static void load_kernel(void) { load(KERNEL_TEXT); }
static void jump(unsigned long to) { __asm__ volatile("br %0" : : "r"(to)); }
static void jump_not_canonical(void) { jump(NOT_CANONICAL); }
static void jump_kernel(void) { jump(KERNEL_TEXT); }
static void jump_odd(void) { jump((unsigned long)invalid + 2); }

static void odd_atomic(void)
{
    static unsigned long words[2];
    __asm__ volatile("ldxr x9, [%0]" : : "r"((char *)words + 1) : "x9", "memory");
    _exit(0);
}

static void run_data(void)
{
    static uint32_t data[] = { 0xd65f03c0 };
    __asm__ volatile("blr %0" : : "r"(data) : "x30", "memory");
    _exit(0);
}

/* rt_sigreturn from a frame whose registers, sp and pc too, are `value`, and whose state is EL1's. */
static void return_to(unsigned long value, uint32_t magic)
{
    static struct {
        siginfo_t info;
        ucontext_t context;
    } frame __attribute__((aligned(16)));
    mcontext_t *machine = &frame.context.uc_mcontext;
    uint32_t record[2] = { magic, 528 };

    for (int i = 0; i < 31; i++)
        machine->regs[i] = value;
    machine->sp = machine->pc = value;
    machine->pstate = EL1;
    memcpy(machine->__reserved, record, sizeof record);
    __asm__ volatile("mov sp, %0\n mov x8, %1\n svc #0" : : "r"(&frame), "i"(SYS_rt_sigreturn) : "x8", "memory");
}

static void return_nowhere(void) { return_to(NOT_CANONICAL, 0x46508001); }
static void return_to_kernel(void) { return_to(KERNEL_TEXT, 0x46508001); }
static void return_malformed(void) { return_to((unsigned long)invalid, 0x12345678); }
static void return_misplaced(void) { __asm__ volatile("mov sp, %0\n mov x8, %1\n svc #0" : : "r"(UNMAPPED), "i"(SYS_rt_sigreturn) : "x8"); }

static void deaths(void)
{
    static const struct {
        const char *what;
        void (*how)(void);
        int signal;
    } table[] = {
        { "an invalid instruction", invalid, SIGILL },
        { "a privileged instruction", privileged, SIGILL },
        { "masking interrupts", masked, SIGILL },
        { "a call of the hypervisor", hypercall, SIGILL },
        { "a halt", halt, SIGILL },
        { "a breakpoint", breakpoint, SIGTRAP },
        { "a load from no address", load_not_canonical, SIGSEGV },
        { "a load from the kernel", load_kernel, SIGSEGV },
        { "a jump to no address", jump_not_canonical, SIGSEGV },
        { "a jump into the kernel", jump_kernel, SIGSEGV },
        { "a jump between instructions", jump_odd, SIGBUS },
        { "an atomic access that is not aligned", odd_atomic, SIGBUS },
        { "data as code", run_data, SIGSEGV },
        { "a signal frame with no addresses", return_nowhere, SIGSEGV },
        { "a signal frame with the kernel's addresses", return_to_kernel, SIGSEGV },
        { "a signal frame without registers", return_malformed, SIGSEGV },
        { "no signal frame", return_misplaced, SIGSEGV },
    };

    for (unsigned i = 0; i < sizeof table / sizeof *table; i++) {
        int status = -1;
        pid_t child = fork();
        if (child == 0) {
            table[i].how();
            _exit(99);
        }
        waitpid(child, &status, 0);
        expect(table[i].what, WIFSIGNALED(status) && WTERMSIG(status) == table[i].signal);
    }
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    vectors();
    system_calls();
    handlers();
    bases();
    code();
    zero();
    tags();
    deaths();
    printf("registers: %d parts failed\n", failures);
    return failures != 0;
}
