/* Reads and writes a disk past the guest's cache, with so many requests at once: disk-load DEVICE.
 * Says of each load when it begins, and at its end how many requests that were and how many nanoseconds they took. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <linux/fs.h>
#include <time.h>
#include <unistd.h>

enum { DEPTH = 32 };

static const struct {
	const char *name;
	int code;
	size_t size;
	int depth, count;
} loads[] = {
	/* What lines of text cost. */
	{ "nothing", IOCB_CMD_PREAD, 4096, 1, 0 },
	/* Has the host read all of it. */
	{ "warm-up", IOCB_CMD_PREAD, 1 << 20, 4, 64 },
	{ "read-4k-1", IOCB_CMD_PREAD, 4096, 1, 2000 },
	{ "read-4k-32", IOCB_CMD_PREAD, 4096, 32, 8000 },
	{ "write-4k-1", IOCB_CMD_PWRITE, 4096, 1, 2000 },
	{ "write-4k-32", IOCB_CMD_PWRITE, 4096, 32, 8000 },
	{ "read-1m-4", IOCB_CMD_PREAD, 1 << 20, 4, 64 },
	{ "write-1m-4", IOCB_CMD_PWRITE, 1 << 20, 4, 64 },
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

/* Small requests go anywhere, large ones from the beginning to the end. */
static uint64_t place(size_t size, int n, uint64_t blocks)
{
	static uint64_t seed = 88172645463325252ull;

	seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
	return (size > 4096 ? (uint64_t)n : seed >> 11) % blocks * size;
}

static void work(aio_context_t context, int disk, char *buffer, uint64_t bytes, unsigned which)
{
	struct iocb blocks[DEPTH], *next[DEPTH];
	struct io_event events[DEPTH];
	size_t size = loads[which].size;
	int depth = loads[which].depth, asked = 0, done = 0, ready = 0;

	for (int n = 0; n < depth; n++) {
		blocks[n] = (struct iocb){ .aio_lio_opcode = loads[which].code, .aio_fildes = disk, .aio_nbytes = size,
			.aio_buf = (uintptr_t)(buffer + n * size), .aio_data = n };
		next[ready++] = &blocks[n];
	}
	while (done < loads[which].count) {
		if (ready > loads[which].count - asked)
			ready = loads[which].count - asked;
		for (int n = 0; n < ready; n++)
			next[n]->aio_offset = place(size, asked + n, bytes / size);
		if (ready > 0 && syscall(SYS_io_submit, context, ready, next) != ready)
			die("io_submit");
		asked += ready, ready = 0;
		int count = syscall(SYS_io_getevents, context, 1, depth, events, NULL);
		if (count < 1)
			die("io_getevents");
		for (int n = 0; n < count; n++) {
			if (events[n].res != (int64_t)size)
				die("a request");
			next[ready++] = &blocks[events[n].data];
		}
		done += count;
	}
}

int main(int count, char **words)
{
	aio_context_t context = 0;
	uint64_t bytes;
	char *buffer = aligned_alloc(4096, 4 << 20);
	int disk = open(count > 1 ? words[1] : "", O_RDWR | O_DIRECT);

	if (!buffer || disk < 0 || ioctl(disk, BLKGETSIZE64, &bytes) < 0 || syscall(SYS_io_setup, DEPTH, &context) < 0)
		die("disk-load DEVICE");
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (unsigned which = 0; which < sizeof loads / sizeof *loads; which++) {
		printf("begin %s\n", loads[which].name);
		/* So that the line is out. */
		usleep(100000);
		uint64_t begin = now();
		work(context, disk, buffer, bytes, which);
		uint64_t end = now();
		usleep(100000);
		printf("end %s %d %llu\n", loads[which].name, loads[which].count, (unsigned long long)(end - begin));
	}
	return 0;
}
