/* Files that live in memory only: without a name (memfd_create, O_TMPFILE), with one below /dev/shm
 * (shm_open, sem_open), and what can be sealed of them. Prints the same on every kernel that has them. */
#define _GNU_SOURCE
#include "check.h"

#include <fcntl.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* C libraries and headers of today do not have all of these. */
enum { CLOEXEC = 1, ALLOW_SEALING = 2, NOEXEC_SEAL = 8, EXEC = 16 };
enum { SEAL_SEAL = 1, SEAL_SHRINK = 2, SEAL_GROW = 4, SEAL_WRITE = 8, SEAL_EXEC = 32 };
enum { ADD_SEALS = 1033, GET_SEALS = 1034 };

enum { PAGE = 4096 };

static int make(const char *name, unsigned flags)
{
    return answer(syscall(SYS_memfd_create, name, flags));
}

static long bits_of(int fd)
{
    struct stat facts;
    return fstat(fd, &facts) != 0 ? -errno : facts.st_mode & 07777;
}

static long links_of(int fd)
{
    struct stat facts;
    return fstat(fd, &facts) != 0 ? -errno : (long)facts.st_nlink;
}

/* Stores and loads, through the file and through memory, here and in a child. */
static void use(int fd)
{
    char byte = 0;
    int status;
    check("it is empty", lseek(fd, 0, SEEK_END), 0);
    check("it grows", answer(ftruncate(fd, 2 * PAGE)), 0);
    char *memory = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return check("mmap", -errno, 0);
    check("zeros", memory[PAGE], 0);
    memory[PAGE] = 7;
    check("what is stored is read", pread(fd, &byte, 1, PAGE) + byte, 8);
    byte = 9;
    check("what is written", pwrite(fd, &byte, 1, 3), 1);
    check("is loaded", memory[3], 9);
    pid_t child = fork();
    if (child == 0) {
        memory[4] = 5;
        _exit(memory[PAGE]);
    }
    waitpid(child, &status, 0);
    check("a child has it, too", WEXITSTATUS(status), 7);
    check("and stores to it", memory[4], 5);
    close(fd);
    check("it outlives its descriptor", memory[PAGE], 7);
    munmap(memory, 2 * PAGE);
}

static void nameless(void)
{
    char longest[252];
    memset(longest, 'x', sizeof longest);
    longest[249] = 0;
    int fd = make("one", 0);
    check("memfd_create", fd >= 0, 1);
    check("its rights", bits_of(fd), 0777);
    check("its links", links_of(fd), 0);
    check("its descriptor stays", fcntl(fd, F_GETFD), 0);
    check("for loads and stores", fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
    use(fd);
    fd = make("", CLOEXEC | EXEC);
    check("no name", fd >= 0, 1);
    check("its descriptor goes", fcntl(fd, F_GETFD), FD_CLOEXEC);
    close(fd);
    fd = make(longest, 0);
    check("a long name", fd >= 0, 1);
    close(fd);
    longest[249] = 'x';
    longest[250] = 0;
    check("a longer name", make(longest, 0), -EINVAL);
    check("a strange flag", make("one", 0x100), -EINVAL);
    check("both rights", make("one", EXEC | NOEXEC_SEAL), -EINVAL);
    check("a strange flag, no name", make((char *)8, 0x100), -EINVAL);
    check("no name there", make((char *)8, 0), -EFAULT);
    fd = open("/tmp", O_TMPFILE | O_RDWR, 0640);
    check("O_TMPFILE", answer(fd) >= 0, 1);
    check("its rights", bits_of(fd), 0640);
    check("its links", links_of(fd), 0);
    use(fd);
    fd = open("/tmp", O_TMPFILE | O_WRONLY | O_EXCL, 0600);
    check("O_TMPFILE, for good", answer(fd) >= 0, 1);
    close(fd);
    check("O_TMPFILE, for loads", answer(open("/tmp", O_TMPFILE | O_RDONLY, 0600)), -EINVAL);
    check("O_TMPFILE, to be made", answer(open("/tmp", O_TMPFILE | O_RDWR | O_CREAT, 0600)), -EINVAL);
    check("half of O_TMPFILE", answer(open("/tmp", (O_TMPFILE & ~O_DIRECTORY) | O_RDWR, 0600)), -EINVAL);
    check("O_TMPFILE, nowhere", answer(open("/tmp/nowhere", O_TMPFILE | O_RDWR, 0600)), -ENOENT);
    check("O_TMPFILE, a file", answer(open("/proc/self/maps", O_TMPFILE | O_RDWR, 0600)), -ENOTDIR);
}

static void sealing(void)
{
    char byte = 1, pages[2 * PAGE] = { 0 };
    int fd = make("one", 0);
    check("sealed against seals", fcntl(fd, GET_SEALS), SEAL_SEAL);
    check("no seal", answer(fcntl(fd, ADD_SEALS, SEAL_GROW)), -EPERM);
    close(fd);
    fd = make("two", ALLOW_SEALING);
    check("without seals", fcntl(fd, GET_SEALS), 0);
    check("two pages", answer(ftruncate(fd, PAGE + 100)), 0);
    check("a strange seal", answer(fcntl(fd, ADD_SEALS, 0x100)), -EINVAL);
    check("it shall not grow", answer(fcntl(fd, ADD_SEALS, SEAL_GROW)), 0);
    check("it is sealed", fcntl(fd, GET_SEALS), SEAL_GROW);
    check("longer", answer(ftruncate(fd, 2 * PAGE)), -EPERM);
    check("as long", answer(ftruncate(fd, PAGE + 100)), 0);
    check("write, to its end", answer(pwrite(fd, pages, PAGE + 100, 0)), PAGE + 100);
    check("write, across its end", answer(pwrite(fd, pages, 2 * PAGE, 0)), PAGE);
    check("write, from within its last page", answer(pwrite(fd, pages, 101, PAGE)), -EPERM);
    check("write, at its end", answer(pwrite(fd, &byte, 1, PAGE + 100)), -EPERM);
    check("write, beyond", answer(pwrite(fd, &byte, 1, 9 * PAGE)), -EPERM);
    check("shorter", answer(ftruncate(fd, PAGE)), 0);
    check("it shall not shrink, either", answer(fcntl(fd, ADD_SEALS, SEAL_SHRINK)), 0);
    check("both", fcntl(fd, GET_SEALS), SEAL_GROW | SEAL_SHRINK);
    check("shorter no more", answer(ftruncate(fd, 1)), -EPERM);
    check("write", answer(pwrite(fd, &byte, 1, 1)), 1);
    check("no more seals", answer(fcntl(fd, ADD_SEALS, SEAL_SEAL)), 0);
    check("none", answer(fcntl(fd, ADD_SEALS, SEAL_SEAL)), -EPERM);
    close(fd);
    fd = make("three", NOEXEC_SEAL);
    check("it is no program", bits_of(fd), 0666);
    check("nor will be", fcntl(fd, GET_SEALS), SEAL_EXEC);
    check("not so", answer(fchmod(fd, 0777)), -EPERM);
    check("but so", answer(fchmod(fd, 0600)), 0);
    close(fd);
    int ends[2];
    check("pipe", pipe(ends), 0);
    check("seals of a pipe", answer(fcntl(ends[0], GET_SEALS)), -EINVAL);
    check("seal a pipe for loads", answer(fcntl(ends[0], ADD_SEALS, SEAL_GROW)), -EPERM);
    check("seal a pipe", answer(fcntl(ends[1], ADD_SEALS, SEAL_GROW)), -EINVAL);
    close(ends[0]);
    close(ends[1]);
    fd = open("/proc/self/exe", O_RDONLY);
    check("seals of a program", answer(fcntl(fd, GET_SEALS)), -EINVAL);
    close(fd);
}

static void named(void)
{
    struct stat facts;
    check("/dev/shm", answer(stat("/dev/shm", &facts)), 0);
    check("its rights", facts.st_mode, S_IFDIR | 01777);
    int fd = shm_open("/memory-files", O_RDWR | O_CREAT | O_EXCL, 0600);
    check("shm_open", answer(fd) >= 0, 1);
    check("its links", links_of(fd), 1);
    check("sealed against seals", fcntl(fd, GET_SEALS), SEAL_SEAL);
    int again = shm_open("/memory-files", O_RDONLY, 0);
    check("shm_open again", answer(again) >= 0, 1);
    check("seal what is for loads", answer(fcntl(again, ADD_SEALS, SEAL_GROW)), -EPERM);
    close(again);
    use(fd);
    check("shm_unlink", answer(shm_unlink("/memory-files")), 0);
    check("shm_unlink again", answer(shm_unlink("/memory-files")), -ENOENT);
    sem_t *gate = sem_open("/memory-files", O_CREAT | O_EXCL, 0600, 0);
    if (gate == SEM_FAILED)
        return check("sem_open", -errno, 0);
    pid_t child = fork();
    if (child == 0)
        _exit(sem_post(gate));
    check("sem_wait", answer(sem_wait(gate)), 0);
    waitpid(child, NULL, 0);
    check("sem_close", answer(sem_close(gate)), 0);
    check("sem_unlink", answer(sem_unlink("/memory-files")), 0);
}

int main(void)
{
    nameless();
    sealing();
    named();
    printf("memory files: %s\n", failed ? "FAILED" : "ok");
    return failed;
}
