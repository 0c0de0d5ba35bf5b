/* What a program may have in its registers survives everything that can come between two of its
 * instructions: other processes, signals, system calls; what it wrote as code runs; and what it may
 * not do kills it alone. For Armv7-A with VFP and NEON. Built statically; prints the same on every
 * kernel. */
#define _GNU_SOURCE
#include <errno.h>
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

#define UNMAPPED 0xdead000ul
#define KERNEL_RAM 0xc0008000ul
#define ABOVE 0xffff8000ul
#define HELPERS 0xffff0000ul
#define FLUSH 0xf0002
#define SUPERVISOR 0x13ul
#define VFP_MAGIC 0x56465001u

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
    __asm__ volatile(".fpu neon\n vmov.i8 d5, #0xee\n vmov.i8 d15, #0xee\n vmov.i8 d31, #0xee\n"
                     "mov r3, #0\n vmsr fpscr, r3\n mvn r8, #0\n mvn r9, #0\n mvn r12, #0\n cmp r9, r9"
                     ::: "d5", "d15", "d31", "r3", "r8", "r9", "r12", "cc", "memory");
}

/* Waits for `target` signals with numbers in registers of all kinds, then looks at them. */
static int keep(uint32_t value, int target)
{
    uint64_t in = (uint64_t)value << 32 | ~value, out[2] = { 0 };
    uint32_t sum = 0, flags = 0;

    __asm__ volatile(".fpu neon\n"
                     "vldr d5, [%[in]]\n"
                     "vldr d15, [%[in]]\n"
                     "vldr d31, [%[in]]\n"
                     "mov r8, %[value]\n"
                     "mov r9, %[value]\n"
                     "mov r12, %[value]\n"
                     "and r3, %[value], #0x1f\n"
                     "vmsr fpscr, r3\n"
                     "1: ldr r3, [%[signals]]\n"
                     "cmp r3, %[target]\n"
                     "blt 1b\n"
                     "veor d5, d5, d15\n"
                     "vstr d5, [%[out]]\n"
                     "vstr d31, [%[out], #8]\n"
                     "vmrs %[flags], fpscr\n"
                     "add %[sum], r8, r9\n"
                     "add %[sum], %[sum], r12\n"
                     : [sum] "=&r"(sum), [flags] "=&r"(flags)
                     : [in] "r"(&in), [out] "r"(out), [signals] "r"(&signals), [target] "r"(target),
                       [value] "r"(value)
                     : "d5", "d15", "d31", "r3", "r8", "r9", "r12", "cc", "memory");
    return out[0] == 0 && out[1] == in && sum == 3 * value && (flags & 0x1f) == (value & 0x1f);
}

/* Handlers without SA_SIGINFO return by sigreturn, those with it by rt_sigreturn. */
static void vectors(const char *what, int flags)
{
    struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART | flags };
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
    expect(what, good);
}

/* A system call changes r0 and nothing else. r7, which the compiler may need, is kept by hand. */
static void system_calls(void)
{
    register unsigned long pid __asm__("r8"), changed __asm__("r9");

    __asm__ volatile("mov r5, r7\n mov r4, #4\n mov r6, #6\n mov r12, #12\n mov r3, #3\n mov lr, #14\n"
                     "mov r7, %[number]\n svc #0\n"
                     "mov %[pid], r0\n"
                     "eor %[changed], r4, #4\n"
                     "eor r6, r6, #6\n orr %[changed], %[changed], r6\n"
                     "eor r12, r12, #12\n orr %[changed], %[changed], r12\n"
                     "eor r3, r3, #3\n orr %[changed], %[changed], r3\n"
                     "eor lr, lr, #14\n orr %[changed], %[changed], lr\n"
                     "eor r7, r7, %[number]\n orr %[changed], %[changed], r7\n"
                     "mov r7, r5\n"
                     : [pid] "=&r"(pid), [changed] "=&r"(changed)
                     : [number] "i"(SYS_getpid)
                     : "r0", "r3", "r4", "r5", "r6", "r12", "lr", "memory");
    expect("a system call changes its result only", pid == (unsigned long)getpid() && changed == 0);
}

/* An emulator or a debugger would listen to these if the kernel made them. */
static void semihosting(void)
{
    register unsigned long pid __asm__("r8");

    __asm__ volatile("mov r5, r7\n mov r7, %[number]\n mov r0, #0x18\n"
#ifdef __thumb__
                     "svc #0xab\n"
#else
                     "svc #0x123456\n"
#endif
                     "mov %[pid], r0\n mov r7, r5\n"
                     : [pid] "=r"(pid)
                     : [number] "i"(SYS_getpid)
                     : "r0", "r5", "memory");
    expect("a call of semihosting is a system call", pid == (unsigned long)getpid());
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    ucontext_t *interrupted = context;

    if (number == SIGSEGV && info->si_code == SEGV_MAPERR && info->si_addr == (void *)UNMAPPED &&
        interrupted->uc_mcontext.fault_address == UNMAPPED)
        signals += HIT;
    interrupted->uc_mcontext.arm_pc += 4; /* over the load */
}

static int faults_once(void)
{
    signals = 0;
    __asm__ volatile("ldrb r9, [%0, #0x100]\n" : : "r"(UNMAPPED - 0x100) : "r9", "memory");
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
    __asm__ volatile("mrc p15, 0, %0, c13, c0, 3" : "=r"(word));
    return word;
}

static unsigned long own_word(void)
{
    unsigned long word;
    __asm__ volatile("mrc p15, 0, %0, c13, c0, 2" : "=r"(word));
    return word;
}

static void set_own_word(unsigned long word)
{
    __asm__ volatile("mcr p15, 0, %0, c13, c0, 2" : : "r"(word));
}

static void bases(void)
{
    unsigned long own = thread_pointer();
    int status = -1;

    set_own_word(1234);
    if (fork() == 0) {
        int bad = thread_pointer() != own || own_word() != 1234;
        set_own_word(5678);
        usleep(20000);
        _exit(bad || own_word() != 5678);
    }
    wait(&status);
    expect("the thread registers in a child", own != 0 && status == 0 && own_word() == 1234);
}

/* The kernel's page of helpers. */
static void helpers(void)
{
    int (*exchange)(int, int, volatile int *) = (void *)(HELPERS + 0xfc0);
    int (*exchange64)(const int64_t *, const int64_t *, volatile int64_t *) = (void *)(HELPERS + 0xf60);
    void (*barrier)(void) = (void *)(HELPERS + 0xfa0);
    unsigned long (*tls)(void) = (void *)(HELPERS + 0xfe0);
    volatile int word = 5;
    volatile int64_t wide = 5ll << 32 | 6;
    const int64_t old = 5ll << 32 | 6, other = 6, new = 7ll << 32 | 8;

    barrier();
    expect("the helper for the thread pointer", tls() == thread_pointer());
    expect("the helper that exchanges a word",
           exchange(5, 6, &word) == 0 && word == 6 && exchange(5, 7, &word) != 0 && word == 6);
    expect("the helper that exchanges two words",
           exchange64(&old, &new, &wide) == 0 && wide == new && exchange64(&old, &other, &wide) != 0 &&
               exchange64(&other, &old, &wide) != 0 && wide == new);
    expect("the number of helpers", *(volatile int32_t *)(HELPERS + 0xffc) >= 5);
}

/* Code that is written anew, in both instruction sets. */
static void code(void)
{
    static const uint32_t numbers[] = { 1, 255, 77 };
    uint32_t *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int good = 1;

    for (unsigned round = 0; round < sizeof numbers / sizeof *numbers; round++) {
        mprotect(page, PAGE, PROT_READ | PROT_WRITE);
        page[0] = 0xe3000000 | numbers[round]; /* movw r0, #number */
        page[1] = 0xe12fff1e;                  /* bx lr */
        page[2] = 0x47702000 | numbers[round]; /* movs r0, #number; bx lr */
        __builtin___clear_cache((char *)page, (char *)(page + 3));
        mprotect(page, PAGE, PROT_READ | PROT_EXEC);
        good &= ((uint32_t (*)(void))page)() == numbers[round];
        good &= ((uint32_t (*)(void))((uintptr_t)(page + 2) | 1))() == numbers[round];
    }
    expect("code that was just written", good);
    good = 1;
    mprotect(page, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    for (uint32_t number = 1; number < 50; number++) {
        page[0] = 0xe3000000 | number;
        __builtin___clear_cache((char *)page, (char *)(page + 2));
        good &= ((uint32_t (*)(void))page)() == number;
    }
    expect("code in a page that stays writable", good);
    expect("a flush of what is not mapped",
           syscall(FLUSH, UNMAPPED, UNMAPPED + 3 * PAGE, 0) == -1 && errno == EFAULT);
    expect("a flush of the kernel", syscall(FLUSH, KERNEL_RAM, KERNEL_RAM + PAGE, 0) == -1 && errno == EFAULT);
    expect("a flush that ends before it starts", syscall(FLUSH, page + 1, page, 0) == -1 && errno == EINVAL);
    page = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expect("a flush of pages that were never touched", syscall(FLUSH, page, page + 3 * PAGE / 4, 0) == 0);
}

/* Plain loads need no alignment, on Arm since version 6. */
static void odd_load(void)
{
    static volatile uint32_t words[2] = { 0x44332211, 0x88776655 };
    uint32_t word;
    __asm__ volatile("ldr %0, [%1]" : "=r"(word) : "r"((char *)words + 1) : "memory");
    expect("a load that is not aligned", word == 0x55443322);
}

static void invalid(void) { __asm__ volatile("udf #7"); }
static void privileged(void) { __asm__ volatile("mcr p15, 0, %0, c12, c0, 0" : : "r"(0)); }
static void foreign_table(void) { __asm__ volatile("mcr p15, 0, %0, c2, c0, 0" : : "r"(0)); }
static void hypercall(void) { __asm__ volatile(".arch_extension virt\n hvc #0"); }
static void breakpoint(void) { __asm__ volatile("bkpt #0"); }
static void load(unsigned long from) { __asm__ volatile("ldr r9, [%0]" : : "r"(from) : "r9"); }
static void load_kernel(void) { load(KERNEL_RAM); }
static void load_above(void) { load(ABOVE); }
static void store_helpers(void) { *(volatile int *)(HELPERS + 0xffc) = 0; }
static void jump(unsigned long to) { __asm__ volatile("bx %0" : : "r"(to)); }
static void jump_kernel(void) { jump(KERNEL_RAM); }
static void jump_above(void) { jump(ABOVE); }

static void odd_atomic(void)
{
    static uint32_t words[2];
    __asm__ volatile("ldrex r9, [%0]" : : "r"((char *)words + 1) : "r9", "memory");
    _exit(0);
}

static void run_data(void)
{
    static uint32_t data[] = { 0xe12fff1e };
    __asm__ volatile("blx %0" : : "r"(data) : "lr", "memory");
    _exit(0);
}

/* rt_sigreturn from a frame whose registers, sp and pc too, are `value`, and whose mode is the
 * kernel's. */
static void return_to(unsigned long value, uint32_t magic)
{
    static struct {
        siginfo_t info;
        ucontext_t context;
    } frame __attribute__((aligned(8)));
    mcontext_t *machine = &frame.context.uc_mcontext;

    for (unsigned long *word = &machine->arm_r0; word <= &machine->arm_pc; word++)
        *word = value;
    machine->arm_cpsr = SUPERVISOR;
    frame.context.uc_regspace[0] = magic;
    frame.context.uc_regspace[1] = 288;
    __asm__ volatile("mov sp, %0\n mov r7, %1\n svc #0\n udf #0" : : "r"(&frame), "i"(SYS_rt_sigreturn) : "memory");
}

static void return_to_kernel(void) { return_to(KERNEL_RAM, VFP_MAGIC); }
static void return_above(void) { return_to(ABOVE, VFP_MAGIC); }
static void return_malformed(void) { return_to((unsigned long)invalid, 0x12345678); }
static void return_misplaced(void) { __asm__ volatile("mov sp, %0\n mov r7, %1\n svc #0\n udf #0" : : "r"(UNMAPPED), "i"(SYS_rt_sigreturn)); }

static void deaths(void)
{
    static const struct {
        const char *what;
        void (*how)(void);
        int signal;
    } table[] = {
        { "an invalid instruction", invalid, SIGILL },
        { "a privileged instruction", privileged, SIGILL },
        { "another page table", foreign_table, SIGILL },
        { "a call of the hypervisor", hypercall, SIGILL },
        { "a breakpoint", breakpoint, SIGTRAP },
        { "a load from the kernel", load_kernel, SIGSEGV },
        { "a load from above the kernel", load_above, SIGSEGV },
        { "a store to the helpers", store_helpers, SIGSEGV },
        { "a jump into the kernel", jump_kernel, SIGSEGV },
        { "a jump above the kernel", jump_above, SIGSEGV },
        { "an atomic access that is not aligned", odd_atomic, SIGBUS },
        { "data as code", run_data, SIGSEGV },
        { "a signal frame with the kernel's addresses", return_to_kernel, SIGSEGV },
        { "a signal frame with addresses above", return_above, SIGSEGV },
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
    vectors("vector registers across processes and signals", 0);
    vectors("the same with siginfo", SA_SIGINFO);
    system_calls();
    semihosting();
    handlers();
    bases();
    helpers();
    code();
    odd_load();
    deaths();
    printf("registers: %d parts failed\n", failures);
    return failures != 0;
}
