/* Small answers: scripts, the last dot of a path, places in devices, options of wait.
 * Prints the same on every kernel. */
#define _GNU_SOURCE
#include "check.h"

#include <errno.h>
#include <elf.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* How a script ends: its status, or why it does not begin. */
static long script(const char *text)
{
    int status, fd = open("script", O_WRONLY | O_CREAT | O_TRUNC, 0700);
    check("write a script", write(fd, text, strlen(text)), strlen(text));
    close(fd);
    pid_t pid = fork();
    if (pid == 0) {
        execl("script", "script", "once", NULL);
        _exit(100 + errno);
    }
    waitpid(pid, &status, 0);
    unlink("script");
    return WEXITSTATUS(status);
}

static void scripts(void)
{
    check("a script", script("#!/proc/self/exe again\n"), 3);
    check("without a newline", script("#!/proc/self/exe again"), 3);
    check("without an argument", script("#! /proc/self/exe"), 2);
    check("without an interpreter", script("#! \t\n"), 100 + ENOEXEC);
    check("of one that is not there", script("#!/none"), 100 + ENOENT);
    char endless[400] = "#!/";
    memset(endless + 3, 'x', sizeof endless - 4);
    check("of one without an end", script(endless), 100 + ENOEXEC);
}

static void dots(void)
{
    mkdir("dots", 0700);
    mkdir("dots/below", 0700);
    check("rmdir, dot", answer(rmdir("dots/below/.")), -EINVAL);
    check("rmdir, two dots", answer(rmdir("dots/below/..")), -ENOTEMPTY);
    check("rmdir, the root", answer(rmdir("/")), -EBUSY);
    check("unlink, dot", answer(unlink("dots/.")), -EISDIR);
    check("rename, dot", answer(rename("dots/below/.", "dots/other")), -EBUSY);
    check("rename to two dots", answer(rename("dots/below", "dots/..")), -EBUSY);
    check("mkdir, dot", answer(mkdir("dots/.", 0700)), -EEXIST);
    check("rmdir, a slash", answer(rmdir("dots/below/")), 0);
    check("rmdir", answer(rmdir("dots")), 0);
}

static long polled(int fd, int events)
{
    struct pollfd one = { fd, events, 0 };
    return poll(&one, 1, 0) < 0 ? -errno : one.revents;
}

static void devices(void)
{
    char bytes[10] = "abcdefghi", other[10];
    int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDWR);
    check("lseek, null", answer(lseek(null, 10, SEEK_SET)), 0);
    check("lseek, zero", answer(lseek(zero, 10, SEEK_END)), 0);
    check("pread, null", answer(pread(null, other, 10, 5)), 0);
    check("pread, zero", answer(pread(zero, bytes, 10, 5)), 10);
    check("its bytes", bytes[0] | bytes[9], 0);
    check("pwrite, null", answer(pwrite(null, bytes, 10, 5)), 10);
    check("read, zero", answer(read(zero, other, 10)), 10);
    check("poll, null", polled(null, -1 & 0x7fff), POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM);
    int ends[2];
    check("pipe", pipe(ends), 0);
    check("poll, an empty pipe", polled(ends[0], POLLIN | POLLRDNORM), 0);
    check("poll, room", polled(ends[1], POLLWRNORM), POLLWRNORM);
    check("write", write(ends[1], bytes, 1), 1);
    check("poll, a byte", polled(ends[0], POLLRDNORM), POLLRDNORM);
    check("poll, in", polled(ends[0], POLLIN), POLLIN);
    check("lseek, a pipe", answer(lseek(ends[0], 0, SEEK_CUR)), -ESPIPE);
    close(ends[0]);
    close(ends[1]);
    close(null);
    close(zero);
}

static void waiting(void)
{
    int status;
    check("wait, strange option", answer(waitpid(-1, &status, 0x100)), -EINVAL);
    check("wait, nobody", answer(waitpid(-1, &status, WNOHANG)), -ECHILD);
    check("wait, all kinds", answer(waitpid(-1, &status, WUNTRACED | WCONTINUED | __WALL)), -ECHILD);
}

#ifdef __x86_64__
#define OLD_CALL(at) ((long (*)(void *, void *))(0xffffffffff600000 + (at)))

/* How a child ends that jumps or stores there. */
static int ends(long at, void *argument)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        if (at == 1)
            _exit(*(volatile char *)argument);
        OLD_CALL(at)(argument, NULL);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

/* A program whose only segment is where the stack may be, below the end of user memory. It runs and answers
 * 42, or exec says that there is no room; what is lost is never a part of it without a word. */
static void crowded(void)
{
    static const unsigned char code[] = { 0xb8, 60, 0, 0, 0, 0xbf, 42, 0, 0, 0, 0x0f, 5 };
    const unsigned long at = 0x7fffffff0000;
    struct {
        Elf64_Ehdr header;
        Elf64_Phdr segment;
        unsigned char code[sizeof code];
    } file = {
        .header = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
                    .e_type = ET_EXEC, .e_machine = EM_X86_64, .e_version = EV_CURRENT,
                    .e_entry = at + sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr), .e_phoff = sizeof(Elf64_Ehdr),
                    .e_ehsize = sizeof(Elf64_Ehdr), .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 1 },
        .segment = { .p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_vaddr = at, .p_paddr = at,
                     .p_filesz = sizeof file, .p_memsz = sizeof file, .p_align = 4096 },
    };
    memcpy(file.code, code, sizeof code);
    int status, fd = open("crowded", O_WRONLY | O_CREAT | O_TRUNC, 0700);
    check("write a program", write(fd, &file, sizeof file), sizeof file);
    close(fd);
    pid_t pid = fork();
    if (pid == 0) {
        execl("crowded", "crowded", NULL);
        _exit(42);
    }
    waitpid(pid, &status, 0);
    unlink("crowded");
    check("a program where the stack is", status, 42 << 8);
}

/* Calls by jumping to an address that never changes, as programs did before there was a vDSO. */
static void old_calls(void)
{
    struct timeval then, now;
    time_t seconds = 0;
    unsigned cpu = -1, node = -1;
    gettimeofday(&then, NULL);
    check("gettimeofday, old", OLD_CALL(0)(&now, NULL), 0);
    check("the same time", now.tv_sec - then.tv_sec <= 5 && now.tv_sec >= then.tv_sec, 1);
    long answered = OLD_CALL(0x400)(&seconds, NULL);
    check("time, old", answered, seconds);
    check("the same time", seconds - then.tv_sec <= 5 && seconds >= then.tv_sec, 1);
    check("time, old, nowhere", OLD_CALL(0x400)(NULL, NULL) >= seconds, 1);
    check("getcpu, old", OLD_CALL(0x800)(&cpu, &node), 0);
    check("one that is there", cpu < 1024 && node < 1024, 1);
    for (int i = 0; i < 20000; i++)
        if (OLD_CALL(0x400)(NULL, NULL) < seconds)
            check("time, often", i, 20000);
    check("time, a bad place", ends(0x400, (void *)8), SIGSEGV);
    check("a place between", ends(0x410, NULL), SIGSEGV);
    check("no such call", ends(0xc00, NULL), SIGSEGV);
    check("it cannot be read", ends(1, (void *)0xffffffffff600000), SIGSEGV);
}
#else
static void crowded(void)
{
}

static void old_calls(void)
{
}
#endif

int main(int count, char **arguments)
{
    char here[] = "/tmp/small-calls.XXXXXX";
    if (count > 1)
        return strcmp(arguments[count - 1], "once") != 0 ? 1 : count == 4 ? 3 : 2;
    if (!mkdtemp(here) || chdir(here) != 0)
        return 2;
    scripts();
    dots();
    devices();
    waiting();
    old_calls();
    crowded();
    chdir("/");
    check("nothing is left", answer(rmdir(here)), 0);
    printf("small calls: %s\n", failed ? "FAILED" : "ok");
    return failed;
}
