// The client of the benchmarks: one operation of a program, repeated, timed where it happens.
//
//   client OPERATION ARGUMENT...        one JSON object on standard output
//
// In C because Python's own microsecond a call would hide half of what is measured. Every operation checks what it
// reads and dies on any error: a benchmark of failures is fast.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char path[4096];
static uint64_t state = 88172645463325252ull;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *what) {
    fprintf(stderr, "client: %s: %s\n", what, errno ? strerror(errno) : "not what was expected");
    exit(1);
}

static uint64_t draw(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void *room(size_t bytes) {
    void *buffer;
    if (posix_memalign(&buffer, 4096, bytes)) die("memory");
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = draw();
        memcpy((char *)buffer + i, &word, bytes - i < 8 ? bytes - i : 8);
    }
    return buffer;
}

static const char *entry(const char *directory, long number) {
    snprintf(path, sizeof path, "%s/file%06ld", directory, number);
    return path;
}

static void finish(long count, double seconds) { printf("{\"count\": %ld, \"seconds\": %.9f}\n", count, seconds); }

static void write_all(int file, const void *buffer, size_t bytes) {
    if (write(file, buffer, bytes) != (ssize_t)bytes) die("write");
}

// write PATH BYTES BLOCK FSYNC: a new file from front to back
static void op_write(char **a) {
    long bytes = atol(a[1]), block = atol(a[2]);
    char *buffer = room(block);
    double start = now();
    int file = open(a[0], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file < 0) die(a[0]);
    for (long done = 0; done < bytes; done += block) write_all(file, buffer, block);
    if (atoi(a[3]) && fsync(file)) die("fsync");
    if (close(file)) die("close");
    finish(bytes, now() - start);
}

// read PATH BLOCK: front to back
static void op_read(char **a) {
    long block = atol(a[1]), bytes = 0, got;
    char *buffer = room(block);
    double start = now();
    int file = open(a[0], O_RDONLY);
    if (file < 0) die(a[0]);
    while ((got = read(file, buffer, block)) > 0) bytes += got;
    if (got < 0) die("read");
    close(file);
    finish(bytes, now() - start);
}

// stat DIRECTORY FILES ROUNDS: stat(2) of the same files again and again, a first unmeasured time before
static void op_stat(char **a) {
    long files = atol(a[1]), rounds = atol(a[2]);
    struct stat s;
    char **paths = calloc(files, sizeof *paths);
    for (long i = 0; i < files; i++) {
        paths[i] = strdup(entry(a[0], i));
        if (stat(paths[i], &s)) die(paths[i]);
    }
    double start = now();
    for (long round = 0; round < rounds; round++)
        for (long i = 0; i < files; i++)
            if (stat(paths[i], &s)) die(paths[i]);
    finish(files * rounds, now() - start);
}

// list DIRECTORY ATTRIBUTES: every entry once, with lstat of each if asked: what ls -f, or ls -l, asks of a file system
static void op_list(char **a) {
    int attributes = atoi(a[1]);
    long count = 0;
    struct stat s;
    struct dirent *e;
    double start = now();
    DIR *directory = opendir(a[0]);
    if (!directory) die(a[0]);
    errno = 0;
    while ((e = readdir(directory))) {
        if (e->d_name[0] == '.') continue;
        if (attributes && fstatat(dirfd(directory), e->d_name, &s, AT_SYMLINK_NOFOLLOW)) die(e->d_name);
        count++;
    }
    if (errno) die("readdir");
    closedir(directory);
    finish(count, now() - start);
}

// create DIRECTORY FILES BYTES: create, write, close
static void op_create(char **a) {
    long files = atol(a[1]), bytes = atol(a[2]);
    char *buffer = room(bytes);
    double start = now();
    for (long i = 0; i < files; i++) {
        int file = open(entry(a[0], i), O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (file < 0) die(path);
        write_all(file, buffer, bytes);
        if (close(file)) die("close");
    }
    finish(files, now() - start);
}

// append DIRECTORY CLIENTS TIMES BYTES FSYNC: each client opens its own file, appends, closes, TIMES over
static void op_append(char **a) {
    long clients = atol(a[1]), times = atol(a[2]), bytes = atol(a[3]);
    int synced = atoi(a[4]), gate[2];
    char *buffer = room(bytes), go;
    for (long i = 0; i < clients; i++) close(open(entry(a[0], i), O_WRONLY | O_CREAT, 0644));
    if (pipe(gate)) die("pipe");
    for (long i = 0; i < clients; i++) {
        pid_t child = fork();
        if (child < 0) die("fork");
        if (child) continue;
        close(gate[1]);
        entry(a[0], i);
        if (read(gate[0], &go, 1)) die("gate");  // opens when the parent closes its end
        for (long k = 0; k < times; k++) {
            int file = open(path, O_WRONLY | O_APPEND);
            if (file < 0) die(path);
            write_all(file, buffer, bytes);
            if (synced && fsync(file)) die("fsync");
            if (close(file)) die("close");
        }
        _exit(0);
    }
    close(gate[0]);
    double start = now();
    close(gate[1]);
    for (long i = 0; i < clients; i++) {
        int status;
        if (wait(&status) < 0 || status) die("a client failed");
    }
    finish(clients * times, now() - start);
}

// overwrite PATH TIMES BYTES: open, write at a random multiple of BYTES, close
static void op_overwrite(char **a) {
    long times = atol(a[1]), bytes = atol(a[2]);
    char *buffer = room(bytes);
    struct stat s;
    if (stat(a[0], &s)) die(a[0]);
    double start = now();
    for (long k = 0; k < times; k++) {
        int file = open(a[0], O_WRONLY);
        if (file < 0) die(a[0]);
        if (pwrite(file, buffer, bytes, (off_t)(draw() % (s.st_size / bytes)) * bytes) != bytes) die("pwrite");
        if (close(file)) die("close");
    }
    finish(times, now() - start);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// versions PATH FIRST LAST TIMES BYTES: open, read, close of PATH@vN, N random in FIRST..LAST and never twice if there
// are enough; every version must begin with its own number, 8 bytes, little-endian
static void op_versions(char **a) {
    long first = atol(a[1]), last = atol(a[2]), times = atol(a[3]), bytes = atol(a[4]);
    uint64_t *buffer = room(bytes);
    double *took = calloc(times, sizeof *took), start = now();
    long span = last - first + 1, step = span / times > 0 ? span / times : 1;
    for (long k = 0; k < times; k++) {
        uint64_t version = first + (k * step + draw() % step) % span;
        snprintf(path, sizeof path, "%s@v%lu", a[0], (unsigned long)version);
        double begin = now();
        int file = open(path, O_RDONLY);
        if (file < 0) die(path);
        if (read(file, buffer, bytes) != bytes) die(path);
        close(file);
        took[k] = now() - begin;
        errno = 0;
        if (*buffer != version) die(path);
    }
    double seconds = now() - start;
    qsort(took, times, sizeof *took, by_value);
    printf("{\"count\": %ld, \"seconds\": %.9f, \"median\": %.9f, \"p99\": %.9f, \"slowest\": %.9f}\n", times, seconds,
           took[times / 2], took[times * 99 / 100], took[times - 1]);
}

// getattr PATH TIMES CLIENTS: statx(2) that the kernel may not answer by heart, by so many processes at once
static void op_getattr(char **a) {
    long times = atol(a[1]), clients = atol(a[2]);
    double start = now();
    for (long i = 0; i < clients; i++) {
        pid_t child = fork();
        if (child < 0) die("fork");
        if (child) continue;
        struct statx s;
        int file = open(a[0], O_RDONLY);
        if (file < 0) die(a[0]);
        for (long k = 0; k < times; k++)
            if (statx(file, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &s)) die("statx");
        _exit(0);
    }
    for (long i = 0; i < clients; i++) {
        int status;
        if (wait(&status) < 0 || status) die("a client failed");
    }
    finish(clients * times, now() - start);
}

// lookup DIRECTORY TIMES PREFIX: names that are not there, each once
static void op_lookup(char **a) {
    long times = atol(a[1]);
    struct stat s;
    double start = now();
    for (long k = 0; k < times; k++) {
        snprintf(path, sizeof path, "%s/%s%ld", a[0], a[2], k);
        if (!stat(path, &s) || errno != ENOENT) die(path);
    }
    finish(times, now() - start);
}

// open PATH TIMES: open(2) for reading and close(2)
static void op_open(char **a) {
    long times = atol(a[1]);
    double start = now();
    for (long k = 0; k < times; k++) {
        int file = open(a[0], O_RDONLY);
        if (file < 0) die(a[0]);
        close(file);
    }
    finish(times, now() - start);
}

// unlink DIRECTORY FILES: those that create made
static void op_unlink(char **a) {
    long files = atol(a[1]);
    double start = now();
    for (long i = 0; i < files; i++)
        if (unlink(entry(a[0], i))) die(path);
    finish(files, now() - start);
}

// random PATH TIMES BYTES: O_DIRECT reads at random multiples of BYTES
static void op_random(char **a) {
    long times = atol(a[1]), bytes = atol(a[2]);
    char *buffer = room(bytes);
    struct stat s;
    int file = open(a[0], O_RDONLY | O_DIRECT);
    if (file < 0 || fstat(file, &s)) die(a[0]);
    double start = now();
    for (long k = 0; k < times; k++)
        if (pread(file, buffer, bytes, (off_t)(draw() % (s.st_size / bytes)) * bytes) != bytes) die("pread");
    finish(times, now() - start);
}

// fault PATH: map a file and touch every page once, in an order that reading ahead cannot guess
static void op_fault(char **a) {
    struct stat s;
    int file = open(a[0], O_RDONLY);
    if (file < 0 || fstat(file, &s)) die(a[0]);
    long pages = s.st_size / 4096, step = 7919;  // a prime, so that every page has its turn unless it divides
    if (pages % step == 0) die("size");
    volatile const char *mapped = mmap(NULL, s.st_size, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED || madvise((void *)mapped, s.st_size, MADV_RANDOM)) die("mmap");
    long sum = 0;
    double start = now();
    for (long k = 0; k < pages; k++) sum += mapped[k * step % pages * 4096];
    finish(pages, now() - start);
    if (sum == 42) putchar(' ');
}

static const struct {
    const char *name;
    int arguments;
    void (*run)(char **);
} operations[] = {
    {"write", 4, op_write},   {"read", 2, op_read},           {"stat", 3, op_stat},         {"list", 2, op_list},
    {"getattr", 3, op_getattr}, {"lookup", 3, op_lookup},     {"open", 2, op_open},         {"unlink", 2, op_unlink},
    {"random", 3, op_random}, {"fault", 1, op_fault},
    {"create", 3, op_create}, {"append", 5, op_append},       {"overwrite", 3, op_overwrite}, {"versions", 5, op_versions},
};

int main(int argc, char **argv) {
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        if (argc > 1 && !strcmp(argv[1], operations[i].name) && argc == operations[i].arguments + 2) {
            operations[i].run(argv + 2);
            return 0;
        }
    fprintf(stderr, "client: no such operation, or a wrong number of arguments\n");
    return 2;
}
