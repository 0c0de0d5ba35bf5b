/* Calls that map, lock, populate, ask about, advise, rearrange and seal memory: what they answer for good
 * ranges and for bad ones, and what they leave alone. Prints the same on every kernel that has them
 * (mseal: Linux 6.10, for 64-bit programs). */
#define _GNU_SOURCE
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE 3
#endif
/* The same on every machine; C libraries of before 2024 have no name for it. */
#define MSEAL 462
enum { DONTNEED_LOCKED = 24 };

enum { PAGE = 4096, PAGES = 8 };

static const char NAME[] = "/tmp/memory-calls";

/* PAGES pages, then a hole. */
static unsigned char *base;

static void lay(int prot, int flags)
{
    flags |= MAP_ANONYMOUS | MAP_FIXED;
    if (mmap(base, PAGES * PAGE, prot, flags, -1, 0) != base)
        exit(2);
}

/* The pages of the range that are there, as bits. */
static long resident(void)
{
    unsigned char there[PAGES];
    long bits = 0;
    if (mincore(base, PAGES * PAGE, there) != 0)
        return -errno;
    for (int page = 0; page < PAGES; page++)
        bits |= (there[page] & 1) << page;
    return bits;
}

/* The areas that begin in the range. */
static long areas(void)
{
    char line[512];
    unsigned long start;
    long found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-", &start) == 1 && start >= (unsigned long)base
            && start < (unsigned long)base + PAGES * PAGE)
            found++;
    if (maps)
        fclose(maps);
    return found;
}

static void locking(void)
{
    lay(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    check("nothing is there", resident(), 0);
    check("mlock", answer(mlock(base + PAGE, 2 * PAGE)), 0);
    check("it brings the pages", resident(), 6);
    check("mlock, odd range", answer(mlock(base + 4 * PAGE + 9, PAGE)), 0);
    check("it brings both", resident(), 6 | 3 << 4);
    check("mlock, nothing", answer(mlock(base + PAGES * PAGE, 0)), 0);
    check("mlock, hole", answer(mlock(base + PAGES * PAGE, PAGE)), -ENOMEM);
    check("mlock, into a hole", answer(mlock(base + PAGE, PAGES * PAGE)), -ENOMEM);
    check("mlock, wrapping", answer(mlock(base, (size_t)-PAGE)), -EINVAL);
    check("munlock", answer(munlock(base, PAGES * PAGE)), 0);
    check("munlock, into a hole", answer(munlock(base, (PAGES + 1) * PAGE)), -ENOMEM);
    check("mlock2, strange flag", answer(syscall(SYS_mlock2, base, PAGE, 2)), -EINVAL);
    lay(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    check("mlock2, on fault", answer(syscall(SYS_mlock2, base, PAGE, 1)), 0);
    check("it brings none", resident(), 0);
    check("munlock again", answer(munlock(base, PAGE)), 0);
    check("mlockall, nothing", answer(mlockall(0)), -EINVAL);
    check("mlockall, strange flag", answer(mlockall(8)), -EINVAL);
    check("mlockall, on fault alone", answer(mlockall(4)), -EINVAL);
    lay(PROT_READ, MAP_PRIVATE);
    check("mlockall, what comes later", answer(mlockall(MCL_FUTURE)), 0);
    check("munlockall", answer(munlockall()), 0);
    check("mlockall, what is there", answer(mlockall(MCL_CURRENT)), 0);
    check("it brings all pages", resident(), 0xff);
    check("munlockall again", answer(munlockall()), 0);
    lay(PROT_NONE, MAP_PRIVATE);
    check("mlock, no rights", answer(mlock(base, PAGE)), -ENOMEM);
}

/* Kilobytes of locked memory, as /proc says. */
static long locked(void)
{
    char line[256];
    long kilobytes = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        sscanf(line, "VmLck: %ld", &kilobytes);
    if (status)
        fclose(status);
    return kilobytes;
}

/* What a mapping of PAGES pages has there at once, as bits. */
static long fresh(int prot, int flags)
{
    unsigned char *before = base;
    base = mmap(NULL, PAGES * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    long bits = base == MAP_FAILED ? -errno : resident();
    if (base != MAP_FAILED)
        munmap(base, PAGES * PAGE);
    base = before;
    return bits;
}

static void staying_locked(void)
{
    static const int drops[] = { MADV_DONTNEED, MADV_FREE, MADV_COLD, MADV_PAGEOUT, MADV_REMOVE };
    int store = PROT_READ | PROT_WRITE;
    lay(store, MAP_PRIVATE);
    check("nothing is locked", locked(), 0);
    check("mlock four", answer(mlock(base, 4 * PAGE)), 0);
    check("four are locked", locked(), 16);
    for (unsigned i = 0; i < sizeof drops / sizeof *drops; i++) {
        check("madvise, locked", answer(madvise(base, PAGE, drops[i])), -EINVAL);
        check("madvise, partly locked", answer(madvise(base + 3 * PAGE, 2 * PAGE, drops[i])), -EINVAL);
    }
    check("they are there", resident(), 0xf);
    check("madvise, drop what is locked", answer(madvise(base, PAGE, DONTNEED_LOCKED)), 0);
    check("one is not", resident(), 0xe);
    check("msync, locked", answer(msync(base, PAGE, MS_INVALIDATE)), -EBUSY);
    check("msync, both", answer(msync(base, PAGE, MS_SYNC | MS_INVALIDATE)), -EBUSY);
    check("msync, partly locked", answer(msync(base + 3 * PAGE, 8 * PAGE, MS_INVALIDATE)), -EBUSY);
    check("msync, not locked", answer(msync(base + 4 * PAGE, PAGE, MS_INVALIDATE)), 0);
    check("msync, written back", answer(msync(base, PAGE, MS_SYNC)), 0);
    check("munlock all of it", answer(munlock(base, PAGES * PAGE)), 0);
    check("nothing is locked again", locked(), 0);
    check("madvise, not locked", answer(madvise(base, PAGE, MADV_DONTNEED)), 0);
    check("mlock up to a hole", answer(mlock(base + 4 * PAGE, 8 * PAGE)), -ENOMEM);
    check("four are locked all the same", locked(), 16);
    check("mlock all lengths", answer(mlock(base, -1)), 0);
    lay(store, MAP_PRIVATE);
    check("what replaces is not", locked(), 0);
    for (int i = 0; i < 12; i++) {
        enum { MUCH = 1 << 20 };
        void *much = mmap(NULL, MUCH, store, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
        check("map it locked", much == MAP_FAILED ? -errno : 0, 0);
        check("one MiB is locked", locked(), 1 << 10);
        check("unlock it", answer(munlock(much, MUCH)), 0);
        munmap(much, MUCH);
    }
    unsigned char *grows = mmap(NULL, PAGES * PAGE, PROT_READ,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0), *before = base;
    munmap(grows + PAGE, (PAGES - 1) * PAGE);
    base = mremap(grows, PAGE, PAGES * PAGE, MREMAP_MAYMOVE);
    check("remap, longer and locked", base == MAP_FAILED ? -errno : resident(), 0xff);
    check("all of it", locked(), PAGES * 4);
    munmap(base, PAGES * PAGE);
    base = before;

    check("mlockall, later ones", answer(mlockall(MCL_FUTURE)), 0);
    check("none is yet", locked(), 0);
    check("a later one", fresh(store, 0), 0xff);
    check("a later one without rights", fresh(PROT_NONE, 0), 0);
    unsigned char *end = sbrk(0);
    sbrk(PAGE - (size_t)end % PAGE + PAGES * PAGE);
    base = end + PAGE - (size_t)end % PAGE;
    check("a longer heap", resident(), 0xff);
    base = before;
    check("and that is all", locked() >= PAGES * 4, 1);
    int status = 1, child = fork();
    if (child == 0)
        _exit(locked() != 0 || fresh(store, 0) != 0);
    check("the child", waitpid(child, &status, 0) == child ? status : -errno, 0);
    check("munlockall", answer(munlockall()), 0);
    check("none is locked", locked(), 0);
    check("nor a later one", fresh(store, 0), 0);
    check("mlockall, later ones on fault", answer(mlockall(MCL_FUTURE | MCL_ONFAULT)), 0);
    check("later, on fault", fresh(store, 0), 0);
    check("later, populated", fresh(store, MAP_POPULATE), 0);
    check("later, locked", fresh(store, MAP_LOCKED), 0);
    lay(store, MAP_PRIVATE);
    check("as many are locked", locked() >= PAGES * 4, 1);
    check("mlockall, what is there", answer(mlockall(MCL_CURRENT)), 0);
    check("now they come", resident(), 0xff);
    check("a later one comes as ever", fresh(store, 0), 0);
    check("munlockall again", answer(munlockall()), 0);
}

/* Pages of a file that are cached, and of which nobody has an entry. */
static void asking_of_files(void)
{
    static char bytes[3 * PAGE];
    unsigned char *before = base;
    int file = open(NAME, O_RDWR | O_CREAT | O_TRUNC, 0600);
    check("a file", write(file, bytes, sizeof bytes), sizeof bytes);
    base = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, file, 0);
    check("its pages are there", resident(), 7);
    munmap(base, PAGES * PAGE);
    base = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_PRIVATE, file, PAGE);
    check("its pages from the second on", resident(), 3);
    check("mlock, behind its end", answer(mlock(base, PAGES * PAGE)), -ENOMEM);
    check("locked all the same", locked(), PAGES * 4);
    munmap(base, PAGES * PAGE);
    base = before;
    close(file);
    unlink(NAME);
}

static void asking(void)
{
    unsigned char there[PAGES + 1];
    lay(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    base[3 * PAGE] = 1;
    check("one page is there", resident(), 1 << 3);
    check("mincore, odd address", answer(mincore(base + 1, PAGE, there)), -EINVAL);
    check("mincore, nothing", answer(mincore(base, 0, there)), 0);
    check("mincore, into a hole", answer(mincore(base, (PAGES + 1) * PAGE, there)), -ENOMEM);
    check("mincore, no vector", answer(mincore(base, PAGE, base + PAGES * PAGE)), -EFAULT);
}

static void advising(void)
{
    /* Those that change nothing a program can see. */
    static const int silent[] = { MADV_WILLNEED, MADV_FREE, MADV_COLD, MADV_PAGEOUT };

    lay(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    check("one area", areas(), 1);
    check("madvise, random", answer(madvise(base, 2 * PAGE, MADV_RANDOM)), 0);
    check("madvise, sequential", answer(madvise(base + 4 * PAGE, 2 * PAGE, MADV_SEQUENTIAL)), 0);
    check("four areas", areas(), 4);
    for (unsigned i = 0; i < sizeof silent / sizeof *silent; i++) {
        check("madvise, silent", answer(madvise(base, PAGES * PAGE, silent[i])), 0);
        check("four areas still", areas(), 4);
        check("madvise, odd address", answer(madvise(base + 1, PAGE, silent[i])), -EINVAL);
        check("madvise, nothing", answer(madvise(base, 0, silent[i])), 0);
        check("madvise, wrapping", answer(madvise(base, (size_t)-PAGE, silent[i])), -EINVAL);
        check("madvise, hole", answer(madvise(base + PAGES * PAGE, PAGE, silent[i])), -ENOMEM);
        check("madvise, into a hole", answer(madvise(base, (PAGES + 1) * PAGE, silent[i])), -ENOMEM);
    }
    check("madvise, normal", answer(madvise(base, PAGES * PAGE, MADV_NORMAL)), 0);
    check("one area again", areas(), 1);
    lay(PROT_READ | PROT_WRITE, MAP_SHARED);
    check("madvise, free what is shared", answer(madvise(base, PAGE, MADV_FREE)), -EINVAL);
}

/* Advice is 32 bits wide, and equal pages may be merged: that is a hint. */
static void words_of_advice(void)
{
    const long high = sizeof(long) == 8 ? (long)(1ull << 32) : 0;
    lay(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    check("madvise, a wide word", answer(syscall(SYS_madvise, base, PAGE, high | MADV_DODUMP)), 0);
    check("madvise, merge", answer(madvise(base, PAGES * PAGE, MADV_MERGEABLE)), 0);
    check("madvise, do not", answer(madvise(base, PAGES * PAGE, MADV_UNMERGEABLE)), 0);
    check("madvise, merge a hole", answer(madvise(base + PAGES * PAGE, PAGE, MADV_MERGEABLE)), -ENOMEM);
    check("madvise, merge, odd address", answer(madvise(base + 1, PAGE, MADV_MERGEABLE)), -EINVAL);
    check("madvise, no advice", answer(madvise(base, PAGE, 77)), -EINVAL);
    check("madvise, neither", answer(madvise(base, PAGE, -1)), -EINVAL);
    check("one area", areas(), 1);
    check("mprotect, nothing, strange rights", answer(mprotect(base, 0, 0x100)), 0);
    check("mprotect, strange rights", answer(mprotect(base, PAGE, 0x100)), -EINVAL);
    check("mprotect, wrapping, strange rights", answer(mprotect(base, -PAGE, 0x100)), -ENOMEM);
    check("mprotect, odd, strange rights", answer(mprotect(base + 1, 0, 0x100)), -EINVAL);
    check("mprotect, nothing, both ways", answer(mprotect(base, 0, PROT_GROWSDOWN | PROT_GROWSUP)), -EINVAL);
}

/* What is freed can be had again: a child touches more than there is, a piece at a time. */
static void freeing(void)
{
    enum { ROUNDS = 6, MOST = 64 << 20 };
    struct sysinfo info;
    int status;
    sysinfo(&info);
    unsigned long long piece = (unsigned long long)info.totalram * info.mem_unit / 4;
    size_t length = (piece > MOST ? MOST : piece) / PAGE * PAGE;
    pid_t child = fork();
    if (child == 0) {
        for (int round = 0; round < ROUNDS; round++) {
            char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (memory == MAP_FAILED)
                _exit(2);
            for (size_t at = 0; at < length; at += PAGE)
                memory[at] = 1;
            if (madvise(memory, length, MADV_FREE) != 0)
                _exit(3);
            memory[0] = 5;
            if (memory[0] != 5)
                _exit(4);
        }
        _exit(0);
    }
    waitpid(child, &status, 0);
    check("freed, and had again", status, 0);
}

static void populating(void)
{
    lay(PROT_READ | PROT_WRITE, MAP_SHARED);
    check("populate for loads", answer(madvise(base, 2 * PAGE, MADV_POPULATE_READ)), 0);
    check("populate for stores", answer(madvise(base + 2 * PAGE, PAGE, MADV_POPULATE_WRITE)), 0);
    check("three pages are there", resident(), 7);
    check("populate a hole", answer(madvise(base + PAGES * PAGE, PAGE, MADV_POPULATE_READ)), -ENOMEM);
    check("populate, odd address", answer(madvise(base + 1, PAGE, MADV_POPULATE_READ)), -EINVAL);
    lay(PROT_READ, MAP_PRIVATE);
    check("populate, no store", answer(madvise(base, PAGE, MADV_POPULATE_WRITE)), -EINVAL);
    lay(PROT_WRITE, MAP_PRIVATE);
    check("populate, stores only", answer(madvise(base, PAGE, MADV_POPULATE_READ)), -EINVAL);
    lay(PROT_NONE, MAP_PRIVATE);
    check("populate, no load", answer(madvise(base, PAGE, MADV_POPULATE_READ)), -EINVAL);
}

/* Where it is mapped, or the error. */
static long mapped(void *at, size_t length, int prot, int flags, int fd)
{
    void *start = mmap(at, length, prot, flags, fd, 0);
    return start == MAP_FAILED ? -errno : (long)start;
}

static void mapping_files(void)
{
    enum { LATER = 1 << 25 };
    int both = open(NAME, O_RDWR | O_CREAT, 0600), loads = open(NAME, O_RDONLY);
    int stores = open(NAME, O_WRONLY), zero = open("/dev/zero", O_RDONLY), ends[2];
    if (both < 0 || zero < 0 || ftruncate(both, PAGE) != 0 || pipe(ends) != 0)
        return check("the files", -errno, 0);
    int odd = MAP_SHARED_VALIDATE | LATER, load = PROT_READ, store = PROT_READ | PROT_WRITE;
    check("a new flag", mapped(NULL, PAGE, load, odd, both), -EOPNOTSUPP);
    check("a new flag, no rights", mapped(NULL, PAGE, load, odd, stores), -EOPNOTSUPP);
    check("exact, a new flag", mapped(base, PAGE, load, odd | MAP_FIXED, both), -EOPNOTSUPP);
    odd = MAP_SHARED_VALIDATE | MAP_NORESERVE | MAP_FIXED;
    check("an old flag", mapped(base, PAGE, load, odd, both), (long)base);
    check("no length", mapped(NULL, 0, load, MAP_SHARED, stores), -EINVAL);
    check("all lengths", mapped(NULL, -1, load, MAP_SHARED, stores), -ENOMEM);
    check("no length of a pipe", mapped(NULL, 0, load, MAP_SHARED, ends[0]), -EINVAL);
    check("no file", mapped(NULL, 0, load, 0, -1), -EBADF);
    check("no type", mapped(NULL, PAGE, load, MAP_FIXED, 99), -EBADF);
    check("a pipe for stores", mapped(NULL, PAGE, store, MAP_SHARED, ends[0]), -EACCES);
    check("a pipe", mapped(NULL, PAGE, load, MAP_SHARED, ends[0]), -ENODEV);
    check("zeros for stores", mapped(NULL, PAGE, store, MAP_SHARED, zero), -EACCES);
    long at = mapped(base, PAGE, load, MAP_SHARED | MAP_FIXED, zero);
    check("zeros", at, (long)base);
    check("stores to zeros later", answer(mprotect(base, PAGE, store)), -EACCES);
    check("own zeros", mapped(base, PAGE, store, MAP_PRIVATE | MAP_FIXED, zero), (long)base);
    check("loads", mapped(base, PAGE, load, MAP_SHARED | MAP_FIXED, loads), (long)base);
    check("stores to a file later", answer(mprotect(base, PAGE, store)), -EACCES);
    long huge = mapped(NULL, PAGE, load, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1);
    check("huge pages that nobody set aside", huge == -ENOMEM || huge == -EINVAL, 1);
    close(both);
    close(loads);
    close(stores);
    close(zero);
    close(ends[0]);
    close(ends[1]);
    unlink(NAME);
}

/* Where mmap chooses for MAP_32BIT, which other machines than x86-64 do not have. */
static void choosing(void)
{
#ifdef MAP_32BIT
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT;
    unsigned char *low = mmap(NULL, PAGE, PROT_READ, flags, -1, 0);
    check("mmap, low", low == MAP_FAILED ? -errno : (unsigned long)low >> 31, 0);
    unsigned char *near = mmap(base, PAGE, PROT_READ, flags, -1, 0);
    check("mmap, low, with a hint above", near == MAP_FAILED ? -errno : (unsigned long)near >> 31, 0);
    unsigned char *there = mmap(base, PAGE, PROT_READ, flags | MAP_FIXED, -1, 0);
    check("mmap, low, at an address", there - base, 0);
    void *much = mmap(NULL, 3ul << 30, PROT_NONE, flags, -1, 0);
    check("mmap, low, too much", much == MAP_FAILED ? -errno : 0, -ENOMEM);
    munmap(low, PAGE);
    munmap(near, PAGE);
#endif
}

/* What stores a byte there comes to: 1 where it succeeds, else the signal, below zero. */
static long stored(unsigned char *at)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        *(volatile unsigned char *)at = 1;
        _exit(1);
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        return -errno;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void protecting_a_stack(void)
{
    lay(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_GROWSDOWN);
    unsigned char *middle = base + 5 * PAGE;
    check("mprotect, a stack", answer(mprotect(middle, PAGE, PROT_READ | PROT_GROWSDOWN)), 0);
    check("it reaches down", stored(base), -SIGSEGV);
    check("and up to there", stored(middle + PAGE), 1);
    check("mprotect, back", answer(mprotect(middle, 3 * PAGE, PROT_READ | PROT_WRITE | PROT_GROWSDOWN)), 0);
    check("it is one stack again", areas(), 1);
    check("mprotect, up", answer(mprotect(middle, PAGE, PROT_READ | PROT_GROWSUP)), -EINVAL);
    check("mprotect, down and up", answer(mprotect(middle, PAGE, PROT_GROWSDOWN | PROT_GROWSUP)), -EINVAL);
    check("mprotect, past its end", answer(mprotect(middle, PAGES * PAGE, PROT_READ | PROT_GROWSDOWN)), -ENOMEM);
    check("mprotect, down, a hole", answer(mprotect(base + PAGES * PAGE, PAGE, PROT_READ | PROT_GROWSDOWN)), -ENOMEM);
    check("mprotect, up, a hole", answer(mprotect(base + PAGES * PAGE, PAGE, PROT_READ | PROT_GROWSUP)), -ENOMEM);
    lay(PROT_READ, MAP_PRIVATE);
    check("mprotect, no stack", answer(mprotect(base, PAGE, PROT_READ | PROT_GROWSDOWN)), -EINVAL);
}

static void removing(void)
{
    lay(PROT_READ | PROT_WRITE, MAP_SHARED);
    memset(base, 7, PAGES * PAGE);
    check("remove", answer(madvise(base + PAGE, 2 * PAGE, MADV_REMOVE)), 0);
    check("the pages have gone", resident(), 0xf9);
    check("a byte before", base[PAGE - 1], 7);
    check("a byte there", base[PAGE], 0);
    check("a byte behind", base[3 * PAGE], 7);
    check("remove, into a hole", answer(madvise(base + 7 * PAGE, 2 * PAGE, MADV_REMOVE)), -ENOMEM);
    check("that page has gone", base[7 * PAGE], 0);
    check("remove, odd address", answer(madvise(base + 1, PAGE, MADV_REMOVE)), -EINVAL);
    check("remove, nothing", answer(madvise(base, 0, MADV_REMOVE)), 0);
    lay(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    check("remove what is private", answer(madvise(base, PAGE, MADV_REMOVE)), -EINVAL);
}

static void rearranging(void)
{
    lay(PROT_READ | PROT_WRITE, MAP_SHARED);
    /* A page may have two addresses here, which no compiler expects. */
    volatile unsigned char *shown = base;
    for (int page = 0; page < PAGES; page++)
        shown[page * PAGE] = page;
    check("rearrange", answer(remap_file_pages(base, PAGE, 0, 6, 0)), 0);
    check("rearrange two", answer(remap_file_pages(base + 4 * PAGE, 2 * PAGE, 0, 1, 0)), 0);
    check("the first page", shown[0], 6);
    check("the fifth", shown[4 * PAGE], 1);
    check("the sixth", shown[5 * PAGE], 2);
    shown[0] = 66;
    check("one page, twice", shown[6 * PAGE], 66);
    check("rearrange, rights", answer(remap_file_pages(base, PAGE, PROT_READ, 0, 0)), -EINVAL);
    check("rearrange, nothing", answer(remap_file_pages(base, PAGE - 1, 0, 0, 0)), -EINVAL);
    check("rearrange, a hole", answer(remap_file_pages(base + 7 * PAGE, 2 * PAGE, 0, 0, 0)), -EINVAL);
    check("rearrange, past all offsets", answer(remap_file_pages(base, 2 * PAGE, 0, (size_t)-1, 0)), -EINVAL);
    check("rearrange, back", answer(remap_file_pages(base, PAGES * PAGE, 0, 0, 0)), 0);
    check("it is one area again", areas(), 1);
    check("the first page again", shown[0], 0);
    lay(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    check("rearrange what is private", answer(remap_file_pages(base, PAGE, 0, 0, 0)), -EINVAL);
}

static long seal(unsigned char *at, size_t length)
{
    return answer(syscall(MSEAL, at, length, 0));
}

/* Moves the end of the heap to so many pages after a place; where it is then, in pages. */
static long moved(unsigned char *from, long pages)
{
    return (syscall(SYS_brk, from + pages * PAGE) - (long)from) / PAGE;
}

static void sealing(void)
{
    static const int harmless[] = { MADV_NORMAL, MADV_RANDOM, MADV_DONTDUMP, MADV_DOFORK };
    static const int drops[] = { MADV_DONTNEED, MADV_FREE, MADV_DONTFORK, MADV_WIPEONFORK };
    unsigned char *before = base;
    unsigned char *other;
    unsigned char *heap;

    lay(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    check("seal, flags", answer(syscall(MSEAL, base, PAGE, 1)), -EINVAL);
    check("seal, odd address", seal(base + 1, PAGE), -EINVAL);
    check("seal, wrapping", seal(base, (size_t)-PAGE), -EINVAL);
    check("seal, nothing", seal(base, 0), 0);
    check("seal, hole", seal(base + PAGES * PAGE, PAGE), -ENOMEM);
    check("seal, into a hole", seal(base, (PAGES + 1) * PAGE), -ENOMEM);
    check("one area, not sealed", areas(), 1);
    check("unmap it", answer(munmap(base, PAGES * PAGE)), 0);

    /* What is sealed stays: it lies elsewhere, with a hole at both ends. */
    other = mmap(NULL, 4 * PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (other == MAP_FAILED || munmap(other, 4 * PAGES * PAGE) != 0)
        exit(2);
    base = other + PAGES * PAGE;
    lay(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    memset(base, 7, PAGES * PAGE);
    check("seal a page and a byte", seal(base + 2 * PAGE, PAGE + 1), 0);
    check("three areas", areas(), 3);
    check("seal again, and more", seal(base + PAGE, 3 * PAGE), 0);
    check("three areas still", areas(), 3);
    check("unmap", answer(munmap(base + 2 * PAGE, PAGE)), -EPERM);
    check("unmap all", answer(munmap(base, PAGES * PAGE)), -EPERM);
    check("mprotect", answer(mprotect(base + 2 * PAGE, PAGE, PROT_READ)), -EPERM);
    check("mprotect to what it is", answer(mprotect(base + PAGE, PAGE, PROT_READ | PROT_WRITE)), -EPERM);
    check("map over it", (long)mmap(base + PAGE, PAGE, PROT_READ,
          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == -1 ? -errno : 0, -EPERM);
    check("remap, as it is", (long)mremap(base + PAGE, PAGE, PAGE, 0) == -1 ? -errno : 0, -EPERM);
    check("remap, shorter", (long)mremap(base + PAGE, 3 * PAGE, PAGE, 0) == -1 ? -errno : 0, -EPERM);
    check("remap, longer", (long)mremap(base + PAGE, 3 * PAGE, 4 * PAGE, MREMAP_MAYMOVE) == -1
          ? -errno : 0, -EPERM);
    check("remap, onto it", (long)mremap(base + 6 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
          base + 2 * PAGE) == -1 ? -errno : 0, -EPERM);
    check("three areas, after all", areas(), 3);
    check("what can be written can be dropped", answer(madvise(base + PAGE, PAGE, MADV_DONTNEED)), 0);
    check("it is", base[PAGE], 0);
    check("the rest is there", base[2 * PAGE] + base[0] + base[7 * PAGE], 21);
    check("the rest can go", answer(munmap(base + 4 * PAGE, 4 * PAGE)), 0);
    base[3 * PAGE] = 8;

    base = other + 2 * PAGES * PAGE;
    lay(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    base[0] = 9;
    check("mprotect before", answer(mprotect(base, PAGES * PAGE, PROT_READ)), 0);
    check("seal what is read only", seal(base, 2 * PAGE), 0);
    for (unsigned i = 0; i < sizeof drops / sizeof *drops; i++)
        check("madvise, drop", answer(madvise(base, PAGE, drops[i])), -EPERM);
    for (unsigned i = 0; i < sizeof harmless / sizeof *harmless; i++)
        check("madvise, harmless", answer(madvise(base, PAGE, harmless[i])), 0);
    check("nothing was dropped", base[0], 9);
    base = before;

    heap = sbrk(0);
    heap += -(size_t)heap % PAGE;
    check("a heap of four pages", moved(heap, 4), 4);
    heap[3 * PAGE] = 5;
    check("seal its end", seal(heap + 2 * PAGE, 2 * PAGE), 0);
    check("shorter", moved(heap, 1), 4);
    check("longer", moved(heap, 6), 6);
    check("back to the seal", moved(heap, 4), 4);
    check("it is as it was", heap[3 * PAGE], 5);
}

/* Whether this kernel seals memory for programs of this width. */
static int seals(void)
{
    return sizeof(long) == 8 || syscall(MSEAL, 0, 0, 0) == 0;
}

int main(void)
{
    base = mmap(NULL, 2 * PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || munmap(base, 2 * PAGES * PAGE) != 0)
        return 2;
    base += PAGES / 2 * PAGE;
    locking();
    staying_locked();
    asking();
    asking_of_files();
    advising();
    words_of_advice();
    freeing();
    populating();
    mapping_files();
    choosing();
    protecting_a_stack();
    removing();
    rearranging();
    if (seals())
        sealing();
    printf("memory calls: %s\n", failed ? "FAILED" : "ok");
    return failed;
}
