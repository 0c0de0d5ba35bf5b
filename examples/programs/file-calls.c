/* Calls that must leave things as they were when they fail, or stop half way: reads and writes where
 * memory ends, opens without a free descriptor, timers out of range; writes that must not mix, and
 * not be made to programs that run; listings that stop and go on.
 * Prints the same on every kernel. */
#define _GNU_SOURCE
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096 };

static const char NAME[] = "/tmp/file-calls";
static const char OTHER[] = "/tmp/file-calls.new";

/* One page, then a hole. */
static char *base;

static char byte(long at)
{
    return (char)(at % 251 + 1);
}

static long first_wrong(const char *bytes, long from, long length)
{
    for (long i = 0; i < length; i++)
        if (bytes[i] != byte(from + i))
            return from + i;
    return -1;
}

static void reading_a_file(void)
{
    char whole[2 * PAGE];
    for (long i = 0; i < 2 * PAGE; i++)
        whole[i] = byte(i);
    int fd = open(NAME, O_RDWR | O_CREAT | O_TRUNC, 0600);
    check("write", answer(write(fd, whole, sizeof whole)), sizeof whole);
    lseek(fd, 0, SEEK_SET);
    check("read over the end of memory", answer(read(fd, base, 2 * PAGE)), PAGE);
    check("the offset after it", lseek(fd, 0, SEEK_CUR), PAGE);
    check("its bytes", first_wrong(base, 0, PAGE), -1);
    check("read behind the end of memory", answer(read(fd, base + PAGE, 10)), -EFAULT);
    check("the offset stays", lseek(fd, 0, SEEK_CUR), PAGE);
    lseek(fd, 7, SEEK_SET);
    check("read within a page", answer(read(fd, base + PAGE - 100, 200)), 100);
    check("the offset within a page", lseek(fd, 0, SEEK_CUR), 107);
    struct iovec vectors[] = { { whole, 10 }, { base + PAGE - 5, 10 }, { whole + 10, 10 } };
    check("readv stops there", answer(readv(fd, vectors, 3)), 15);
    check("the offset after readv", lseek(fd, 0, SEEK_CUR), 122);
    check("pread over the end of memory", answer(pread(fd, base, 2 * PAGE, 1)), PAGE);
    check("pread's bytes", first_wrong(base, 1, PAGE), -1);
    close(fd);
}

static void writing_a_file(void)
{
    struct stat facts;
    char back[100], more[10] = "0123456789";
    for (long i = 0; i < PAGE; i++)
        base[i] = byte(i);
    int fd = open(NAME, O_RDWR | O_CREAT | O_TRUNC, 0600);
    check("write over the end of memory", answer(write(fd, base + PAGE - 100, 200)), 100);
    check("the offset after it", lseek(fd, 0, SEEK_CUR), 100);
    check("write behind the end of memory", answer(write(fd, base + PAGE, 10)), -EFAULT);
    check("the offset stays", lseek(fd, 0, SEEK_CUR), 100);
    struct iovec vectors[] = { { more, 10 }, { base + PAGE - 5, 10 }, { more, 10 } };
    check("writev stops there", answer(writev(fd, vectors, 3)), 15);
    check("pwrite over the end of memory", answer(pwrite(fd, base + PAGE - 50, 60, 200)), 50);
    check("its size", fstat(fd, &facts) == 0 ? facts.st_size : -errno, 250);
    check("read it back", answer(pread(fd, back, 100, 0)), 100);
    check("the bytes written", first_wrong(back, PAGE - 100, 100), -1);
    close(fd);
}

enum { WRITERS = 4, RECORDS = 60, RECORD = 20000 };

/* Writers whose records must stay whole: each with an end of its own, or with one offset for all. */
static void records(const char *what, int flags)
{
    static char record[RECORD];
    int fd = open(NAME, O_WRONLY | O_CREAT | O_TRUNC | flags, 0600);
    for (int writer = 0; writer < WRITERS; writer++) {
        if (fork() != 0)
            continue;
        int own = flags & O_APPEND ? open(NAME, O_WRONLY | O_APPEND) : fd;
        for (int i = 0; i < RECORDS; i++) {
            memset(record, 'a' + writer, RECORD);
            if (write(own, record, RECORD) != RECORD)
                _exit(1);
        }
        _exit(0);
    }
    int status, ended = 0;
    while (wait(&status) > 0)
        ended += status == 0;
    check(what, ended, WRITERS);
    close(fd);
    int mixed = 0, count = 0;
    fd = open(NAME, O_RDONLY);
    for (; read(fd, record, RECORD) == RECORD; count++)
        for (int i = 1; i < RECORD; i++)
            if (record[i] != record[0]) {
                mixed++;
                break;
            }
    check(what, count, WRITERS * RECORDS);
    check("records that were mixed", mixed, 0);
    close(fd);
    unlink(NAME);
}

static void appending(void)
{
    char two[2];
    int fd = open(NAME, O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0600);
    check("append", answer(write(fd, "a", 1)), 1);
    check("pwrite appends, too", answer(pwrite(fd, "b", 1, 0)), 1);
    check("the offset stays", lseek(fd, 0, SEEK_CUR), 1);
    check("read both", answer(pread(fd, two, 2, 0)), 2);
    check("the first stays", two[0], 'a');
    check("the second is behind it", two[1], 'b');
    close(fd);
    records("writers that append", O_APPEND);
    records("writers that share an offset", 0);
}

static void reading_a_pipe(void)
{
    int ends[2];
    char bytes[PAGE + 1000];
    for (long i = 0; i < (long)sizeof bytes; i++)
        bytes[i] = byte(i);
    if (pipe(ends) != 0)
        return check("pipe", errno, 0);
    check("write to a pipe", answer(write(ends[1], bytes, sizeof bytes)), sizeof bytes);
    check("read of a pipe", answer(read(ends[0], base, sizeof bytes)), PAGE);
    check("a bad read of a pipe", answer(read(ends[0], base + PAGE, 10)), -EFAULT);
    memset(bytes, 0, sizeof bytes);
    check("the rest of a pipe", answer(read(ends[0], bytes, sizeof bytes)), 1000);
    check("the rest's bytes", first_wrong(bytes, PAGE, 1000), -1);
    close(ends[0]);
    close(ends[1]);
}

static void opening_without_a_descriptor(void)
{
    struct stat facts;
    int fds[4096], count = 0;
    while (count < 4096 && (fds[count] = open("/", O_RDONLY)) >= 0)
        count++;
    check("descriptors end", errno, EMFILE);
    check("truncate without one", answer(open(NAME, O_WRONLY | O_TRUNC)), -EMFILE);
    check("create without one", answer(open(OTHER, O_WRONLY | O_CREAT, 0600)), -EMFILE);
    while (count > 0)
        close(fds[--count]);
    check("the file is there", answer(stat(NAME, &facts)), 0);
    check("as long as before", facts.st_size, 2 * PAGE);
    check("no file was made", answer(stat(OTHER, &facts)), -ENOENT);
    int fd = open(NAME, O_WRONLY | O_TRUNC);
    check("truncate", answer(fstat(fd, &facts)), 0);
    check("it is empty", facts.st_size, 0);
    close(fd);
    unlink(NAME);
}

/* Of the program itself, as it is written to start it again. */
static const char COPY[] = "/tmp/file-calls.copy";

/* Starts the copy, which sleeps; answers its number once it runs, or the error. */
static long run_copy(void)
{
    int ends[2], error = 0;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -errno;
    pid_t child = fork();
    if (child == 0) {
        execl(COPY, COPY, "sleep", (char *)NULL);
        error = errno;
        _exit(write(ends[1], &error, sizeof error) != sizeof error);
    }
    close(ends[1]);
    long n = read(ends[0], &error, sizeof error);
    close(ends[0]);
    if (n == 0)
        return child;
    waitpid(child, NULL, 0);
    return -error;
}

static void writing_a_program(void)
{
    static char piece[65536];
    int from = open("/proc/self/exe", O_RDONLY);
    int to = open(COPY, O_WRONLY | O_CREAT | O_TRUNC, 0700);
    for (long n; (n = read(from, piece, sizeof piece)) > 0;)
        if (write(to, piece, n) != n)
            return check("a copy of the program", errno, 0);
    close(from);
    check("run what is open for writing", run_copy(), -ETXTBSY);
    close(to);
    long child = run_copy();
    check("run it later", child > 0 ? 0 : child, 0);
    check("write what runs", answer(open(COPY, O_WRONLY)), -ETXTBSY);
    check("empty what runs", answer(open(COPY, O_RDWR | O_TRUNC)), -ETXTBSY);
    check("truncate what runs", answer(truncate(COPY, 0)), -ETXTBSY);
    int fd = open(COPY, O_RDONLY);
    check("read what runs", answer(read(fd, piece, 4)), 4);
    close(fd);
    long other = run_copy();
    check("run it twice", other > 0 ? 0 : other, 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    check("write what one still runs", answer(open(COPY, O_WRONLY)), -ETXTBSY);
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
    check("truncate what ran", answer(truncate(COPY, 0)), 0);
    unlink(COPY);
}

static volatile sig_atomic_t rings;

static void ring(int signal)
{
    (void)signal;
    rings++;
}

static void timers(void)
{
    const long huge = (long)(~0ul >> 1);
    struct itimerval off = { { 0, 0 }, { 0, 0 } };
    struct itimerval past = { { 0, 0 }, { -1, 1 } };
    struct itimerval before = { { -1, 0 }, { 1, 0 } };
    struct itimerval once = { { huge, 0 }, { 0, 1 } };
    signal(SIGALRM, ring);
    check("a time before now", answer(setitimer(ITIMER_REAL, &past, NULL)), -EINVAL);
    check("an interval below nothing", answer(setitimer(ITIMER_REAL, &before, NULL)), -EINVAL);
    check("an interval without end", answer(setitimer(ITIMER_REAL, &once, NULL)), 0);
    for (int i = 0; i < 10; i++) {
        struct timespec nap = { 0, 20 * 1000 * 1000 };
        nanosleep(&nap, NULL);
    }
    check("it rings once", rings, 1);
    struct itimerval soon = { { 0, 0 }, { 0, 20 * 1000 } };
    // The C library of a machine of 32 bits would store it by itself.
    struct timespec second = { 1, 0 };
    char *nowhere = base + PAGE;
    setitimer(ITIMER_REAL, &soon, NULL);
    check("a sleep's rest that has no place", answer(syscall(SYS_nanosleep, &second, nowhere)),
          -EFAULT);
    check("it rings again", rings, 2);
    setitimer(ITIMER_REAL, &off, NULL);
}

static void naming(void)
{
    char name[16];
    memset(base + PAGE - 15, 'n', 15);
    check("a name that memory ends", answer(prctl(PR_SET_NAME, base + PAGE - 15)), 0);
    check("ask for it", answer(prctl(PR_GET_NAME, name)), 0);
    check("it is as long as names are", strlen(name), 15);
    check("a name that is nowhere", answer(prctl(PR_SET_NAME, base + PAGE)), -EFAULT);
}

/* A directory's entries come once each, wherever a listing stops and goes on. */
static void listing(void)
{
    enum { FILES = 6, ALL = FILES + 2 };
    char name[64], names[ALL][8];
    long places[ALL];
    struct stat above;
    check("a directory", answer(mkdir("/tmp/list", 0700)) | answer(stat("/tmp", &above)), 0);
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof name, "/tmp/list/n%d", i);
        close(open(name, O_WRONLY | O_CREAT, 0600));
    }
    DIR *list = opendir("/tmp/list");
    struct dirent *entry;
    int found = 0;
    for (; found < ALL && (entry = readdir(list)); found++) {
        snprintf(names[found], sizeof names[found], "%.7s", entry->d_name);
        places[found] = telldir(list);
        if (strcmp(entry->d_name, "..") == 0)
            check("the number of the directory above", entry->d_ino == above.st_ino, 1);
    }
    check("all entries", found, ALL);
    for (int i = found - 2; i >= 0; i--) {
        seekdir(list, places[i]);
        entry = readdir(list);
        check("an entry after a seek", entry && strcmp(entry->d_name, names[i + 1]) == 0, 1);
    }
    /* Two entries fit before memory ends. Those that did not come next. */
    rewinddir(list);
    long bytes = syscall(SYS_getdents64, dirfd(list), base + PAGE - 60, PAGE);
    check("two entries", bytes, 48);
    for (found = 2; (bytes = syscall(SYS_getdents64, dirfd(list), base, PAGE)) > 0;)
        for (long at = 0; at < bytes; at += *(unsigned short *)(base + at + 16))
            found++;
    check("all entries, in parts", found, ALL);
    closedir(list);
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof name, "/tmp/list/n%d", i);
        unlink(name);
    }
    check("nothing is left in it", answer(rmdir("/tmp/list")), 0);
}

int main(int count, char **arguments)
{
    if (count > 1 && strcmp(arguments[1], "sleep") == 0)
        return pause();
    base = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || munmap(base + PAGE, PAGE) != 0)
        return 2;
    reading_a_file();
    reading_a_pipe();
    opening_without_a_descriptor();
    writing_a_file();
    appending();
    writing_a_program();
    timers();
    naming();
    listing();
    printf("file calls: %s\n", failed ? "FAILED" : "ok");
    return failed;
}
