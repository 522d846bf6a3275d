// Files that are made durable and acknowledged, again and again, until the power is cut; and what is there of them then.
//
//   writer write DIRECTORY N  for ever, by N processes; each line "synced FILE VERSION" says what was asked to last
//   writer check DIRECTORY    lines "holds FILE VERSION": what is there, whole; "broken FILE" where no version is
//
// A version of a file is never less than one before. tests/tests/power compares what was acknowledged and what is there.
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES = 6, SECTOR = 512, BLOCK = 4096, RECORDS = 200, MOST = 100 * SECTOR };

// Each sector says whose it is, so that mixed and stale ones are found.
struct sector {
    uint64_t magic, file, version, index, count, words[SECTOR / 8 - 5];
};

static const uint64_t MAGIC = 0x7375727669766573;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t mix(uint64_t n) {
    n = (n ^ n >> 31) * 0x9e3779b97f4a7c15;
    return n ^ n >> 29;
}

// The file's number: writer, kind, index.
static uint64_t number(const char *name) {
    uint64_t n = 0;
    while (*name)
        n = n * 131 + (unsigned char)*name++;
    return n;
}

static void fill(struct sector *to, uint64_t file, uint64_t version, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        to[i] = (struct sector){MAGIC, file, version, i, count, {0}};
        for (unsigned w = 0; w < sizeof to[i].words / 8; w++)
            to[i].words[w] = mix(file ^ version << 20 ^ i << 8 ^ w);
    }
}

static int is_sound(const struct sector *found, uint64_t file, uint64_t index) {
    struct sector whole[1];
    fill(whole, file, found->version, 1);
    if (found->magic != MAGIC || found->file != file || found->index != index)
        return 0;
    for (unsigned w = 0; w < sizeof found->words / 8; w++)
        if (found->words[w] != mix(file ^ found->version << 20 ^ index << 8 ^ w))
            return 0;
    return 1;
}

// ---- Writing

static void acknowledge(const char *name, uint64_t version) {
    char line[100];
    int len = snprintf(line, sizeof line, "synced %s %llu\n", name, (unsigned long long)version);
    if (write(1, line, len) != len)
        die("acknowledging");
}

static void put(int fd, const void *data, size_t len, off_t at) {
    if (pwrite(fd, data, len, at) != (ssize_t)len)
        die("writing");
}

static void make_durable(int (*how)(int), int fd) {
    if (how(fd) != 0)
        die("syncing");
}

static int open_file(const char *name) {
    int fd = open(name, O_RDWR | O_CREAT, 0644);
    if (fd < 0)
        die(name);
    return fd;
}

static struct sector buffer[MOST / SECTOR];

// A new file takes an old one's name.
static void replace(int directory, const char *name, uint64_t version) {
    char new[40];
    snprintf(new, sizeof new, "%.20s-new", name);
    uint64_t count = 1 + mix(version) % (MOST / SECTOR);
    fill(buffer, number(name), version, count);
    int fd = open_file(new);
    if (ftruncate(fd, 0) != 0)
        die("truncating");
    put(fd, buffer, count * SECTOR, 0);
    make_durable(fsync, fd);
    close(fd);
    if (rename(new, name) != 0)
        die("renaming");
    make_durable(fsync, directory);
}

// A block is written where it is.
static void overwrite(const char *name, uint64_t version) {
    fill(buffer, number(name), version, BLOCK / SECTOR);
    int fd = open_file(name);
    put(fd, buffer, BLOCK, 0);
    make_durable(fdatasync, fd);
    close(fd);
}

// Record after record, in a new file from time to time.
static void append(int directory, int who, uint64_t record) {
    char name[40], old[40];
    uint64_t file = record / RECORDS, index = record % RECORDS;
    snprintf(name, sizeof name, "%d-log%llu", who, (unsigned long long)file);
    fill(buffer, number(name), record, 1);
    buffer->index = index;
    for (unsigned w = 0; w < sizeof buffer->words / 8; w++)
        buffer->words[w] = mix(buffer->file ^ record << 20 ^ index << 8 ^ w);
    int fd = open_file(name);
    put(fd, buffer, SECTOR, index * SECTOR);
    make_durable(fdatasync, fd);
    close(fd);
    if (index == 0 && file > 0) {
        make_durable(fsync, directory);
        snprintf(old, sizeof old, "%d-log%llu", who, (unsigned long long)file - 1);
        unlink(old);
    }
    snprintf(name, sizeof name, "%d-log", who);
    acknowledge(name, record + 1);
}

static void write_for_ever(int who, int directory) {
    char name[40];
    for (int file = 0; file < FILES; file++) {
        snprintf(name, sizeof name, "%d-block%d", who, file);
        overwrite(name, 1);
    }
    make_durable(fsync, directory);
    for (uint64_t n = 0;; n++) {
        uint64_t chance = mix(n * 16 + who), file = chance / 8 % FILES;
        switch (chance % 4) {
        case 0:
            snprintf(name, sizeof name, "%d-file%d", who, (int)file);
            replace(directory, name, n + 1);
            acknowledge(name, n + 1);
            break;
        case 1:
            snprintf(name, sizeof name, "%d-block%d", who, (int)file);
            overwrite(name, n + 2);
            acknowledge(name, n + 2);
            break;
        default: {
            static uint64_t record;
            append(directory, who, record++);
        }
        }
    }
}

// ---- Checking

static void check(const char *name) {
    static struct sector data[MOST / SECTOR + RECORDS];
    int fd = open(name, O_RDONLY);
    ssize_t len = fd < 0 ? -1 : read(fd, data, sizeof data);
    if (len < 0)
        die(name);
    close(fd);
    uint64_t file = number(name), count = len / SECTOR, good = 0;
    while (good < count && is_sound(&data[good], file, good))
        good++;
    const char *log = strstr(name, "-log");
    if (log) {
        // Those behind were not acknowledged, or the caller finds too few.
        uint64_t first = strtoull(log + 4, NULL, 10) * RECORDS;
        for (uint64_t i = 0; i < good; i++)
            if (data[i].version != first + i)
                good = i;
        if (good > 0)
            printf("holds %.*s %llu\n", (int)(log + 4 - name), name, (unsigned long long)(first + good));
        return;
    }
    uint64_t version = good ? data[0].version : 0;
    int is_whole = good == count && count > 0 && len % SECTOR == 0 && count == data[0].count;
    for (uint64_t i = 1; i < good; i++) {
        // A block may be half of the next version; what is renamed may not.
        if (strstr(name, "-file") && data[i].version != version)
            is_whole = 0;
        if (data[i].version < version)
            version = data[i].version;
    }
    if (is_whole)
        printf("holds %s %llu\n", name, (unsigned long long)version);
    else
        printf("broken %s\n", name);
}

int main(int argc, char **argv) {
    if (argc < 3 || chdir(argv[2]) != 0)
        die("usage: writer (write DIRECTORY N | check DIRECTORY)");
    if (strcmp(argv[1], "write") == 0) {
        int directory = open(".", O_RDONLY | O_DIRECTORY);
        for (int who = argc > 3 ? atoi(argv[3]) : 1; --who > 0;)
            if (fork() == 0)
                write_for_ever(who, directory);
        write_for_ever(0, directory);
    }
    DIR *all = opendir(".");
    for (struct dirent *entry; all && (entry = readdir(all));)
        if (strchr(entry->d_name, '-') && !strstr(entry->d_name, "-new"))
            check(entry->d_name);
    puts("checked");
    return 0;
}
