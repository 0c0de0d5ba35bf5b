/* Calls that lock, populate, ask about, advise and rearrange memory: what they answer for good ranges and for
 * bad ones, and what they leave alone. Prints the same on every kernel. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

enum { PAGE = 4096, PAGES = 8 };

static int failed;
/* PAGES pages, then a hole. */
static unsigned char *base;

static void check(const char *what, long got, long wanted)
{
    if (got == wanted)
        return;
    printf("%s: %ld instead of %ld\n", what, got, wanted);
    failed = 1;
}

static long answer(long result)
{
    return result < 0 ? -errno : result;
}

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
    lay(PROT_NONE, MAP_PRIVATE);
    check("populate, no load", answer(madvise(base, PAGE, MADV_POPULATE_READ)), -EINVAL);
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

int main(void)
{
    base = mmap(NULL, 2 * PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || munmap(base, 2 * PAGES * PAGE) != 0)
        return 2;
    base += PAGES / 2 * PAGE;
    locking();
    asking();
    advising();
    populating();
    choosing();
    protecting_a_stack();
    removing();
    rearranging();
    printf("memory calls: %s\n", failed ? "FAILED" : "ok");
    return failed;
}
