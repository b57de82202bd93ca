// SPDX-License-Identifier: MIT
/* Mappings: whole blocks, huge entries, and what a program may do to its address space. */
#include <sys/mman.h>
#include <sys/socket.h>

#include "test.h"

#define BLOCKS 32

FIXTURE(map)
{
	struct pool pool;
};

FIXTURE_VARIANT(map)
{
	uint32_t shift;
	uint32_t flags;
};

FIXTURE_VARIANT_ADD(map, small)
{
	.shift = SHIFT,
};

FIXTURE_VARIANT_ADD(map, huge)
{
	.shift = HUGE_SHIFT,
};

FIXTURE_VARIANT_ADD(map, pinnable)
{
	.shift = SHIFT,
	.flags = KVTIER_POOL_PINNABLE,
};

FIXTURE_SETUP(map)
{
	ASSERT_EQ(0, pool_new(&self->pool, variant->shift, BLOCKS, 8, BLOCKS,
			      variant->flags | KVTIER_POOL_NO_PREDICT));
}

FIXTURE_TEARDOWN(map)
{
	pool_close(&self->pool);
}

/* A field of the mapping's entry in smaps, in KiB. */
static long smaps(const void *addr, const char *field)
{
	unsigned long begin, end;
	long value = -1;
	char line[512];
	bool inside = false;
	FILE *f = fopen("/proc/self/smaps", "re");

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
			inside = (unsigned long)addr >= begin && (unsigned long)addr < end;
		else if (inside && !strncmp(line, field, strlen(field)))
			value = strtol(line + strlen(field) + 1, NULL, 10);
	}
	if (f)
		fclose(f);
	return value;
}

static bool smaps_flag(const void *addr, const char *flag)
{
	unsigned long begin, end;
	char line[512];
	bool inside = false, found = false;
	FILE *f = fopen("/proc/self/smaps", "re");

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
			inside = (unsigned long)addr >= begin && (unsigned long)addr < end;
		else if (inside && !strncmp(line, "VmFlags:", 8))
			found = strstr(line, flag) != NULL;
	}
	if (f)
		fclose(f);
	return found;
}

TEST_F(map, aligned_and_zero)
{
	EXPECT_EQ(0, (uintptr_t)self->pool.mem % HUGE_BYTES);
	EXPECT_EQ(0, check_zero(&self->pool, 0, BLOCKS));
}

/* One touch brings all of a block: its other pages cost no fault of the pool's. */
TEST_F(map, one_fault_a_block)
{
	struct kvtier_stats before, after;
	size_t page;

	fill(&self->pool, 0, 4, 1);
	ASSERT_EQ(0, op(&self->pool, KVTIER_OP_DEMOTE, 0, 4));
	before = stats(&self->pool);
	for (page = 0; page < 4 * self->pool.block; page += 4096)
		(void)*(volatile char *)(self->pool.mem + page);
	after = stats(&self->pool);
	EXPECT_EQ(4, after.faults - before.faults);
	EXPECT_EQ(4, after.hard_faults - before.hard_faults);
}

TEST_F(map, huge_entries)
{
	if (variant->shift != HUGE_SHIFT)
		SKIP(return, "blocks are smaller than a huge page");
	fill(&self->pool, 0, 4, 1);
	EXPECT_EQ(4 * 2048, smaps(self->pool.mem, "FilePmdMapped:"));
	EXPECT_EQ(0, check(&self->pool, 0, 4, 1));
}

/* At another address the same bytes, whatever the alignment. */
TEST_F(map, second_mapping)
{
	char *second = reserve(self->pool.bytes + HUGE_BYTES) + 4096, *map;
	uint64_t i;

	map = mmap(second, self->pool.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		   self->pool.fd, 0);
	ASSERT_EQ(second, map);
	fill(&self->pool, 0, BLOCKS, 2);
	EXPECT_EQ(0, memcmp(self->pool.mem, map, self->pool.bytes));
	for (i = 0; i < BLOCKS; i++)
		map[i * self->pool.block + 77] ^= 0x55;
	ASSERT_EQ(0, op(&self->pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
	for (i = 0; i < BLOCKS; i++)
		self->pool.mem[i * self->pool.block + 77] ^= 0x55;
	EXPECT_EQ(0, check(&self->pool, 0, BLOCKS, 2));
	munmap(map, self->pool.bytes);
	EXPECT_EQ(0, check(&self->pool, 0, BLOCKS, 2));
}

/* A part that begins and ends inside of blocks. */
TEST_F(map, part_of_a_pool)
{
	size_t offset = 3 * self->pool.block + 8192, bytes = 5 * self->pool.block;
	char *part = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, self->pool.fd,
			  (off_t)offset);

	ASSERT_NE(MAP_FAILED, (void *)part);
	fill(&self->pool, 3, 6, 3);
	EXPECT_EQ(0, memcmp(part, self->pool.mem + offset, bytes));
	EXPECT_EQ(SIGSEGV, try_read(part + bytes + HUGE_BYTES * 512));
	munmap(part, bytes);
}

TEST_F(map, refused)
{
	struct pool *pool = &self->pool;
	int fd = pool->fd;

	EXPECT_EQ(MAP_FAILED, mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0));
	EXPECT_EQ(EACCES, errno);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, pool->bytes + 4096, PROT_READ, MAP_SHARED, fd, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd,
				   (off_t)pool->bytes - 4096));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, (off_t)pool->bytes));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 1LL << 62));
	EXPECT_EQ(-1, mprotect(pool->mem, 4096, PROT_READ | PROT_EXEC));
	EXPECT_EQ(EACCES, errno);
}

TEST_F(map, mprotect)
{
	struct pool *pool = &self->pool;

	fill(pool, 0, 4, 4);
	ASSERT_EQ(0, mprotect(at(pool, 1) + 4096, pool->block, PROT_READ));
	EXPECT_EQ(SIGSEGV, try_write(at(pool, 1) + 4096));
	EXPECT_EQ(SIGSEGV, try_write(at(pool, 2)));
	EXPECT_EQ(0, try_read(at(pool, 2)));
	*(volatile uint64_t *)at(pool, 1) = word_of(pool->block, 4);
	ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, 4));
	EXPECT_EQ(SIGSEGV, try_write(at(pool, 2)));
	ASSERT_EQ(0, mprotect(at(pool, 1), 4096, PROT_NONE));
	EXPECT_EQ(SIGSEGV, try_read(at(pool, 1)));
	ASSERT_EQ(0, mprotect(pool->mem, pool->bytes, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, check(pool, 0, 4, 4));
	fill(pool, 0, 4, 5);
	EXPECT_EQ(0, check(pool, 0, 4, 5));
}

TEST_F(map, mremap)
{
	struct pool *pool = &self->pool;
	char *to = reserve(pool->bytes), *from = pool->mem;
	size_t half = pool->bytes / 2;

	fill(pool, 0, BLOCKS, 6);
	ASSERT_EQ(to, mremap(from, pool->bytes, pool->bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to));
	pool->mem = to;
	EXPECT_EQ(SIGSEGV, try_read(from));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 6));
	ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 6));
	EXPECT_EQ(MAP_FAILED, mremap(to, pool->bytes, pool->bytes + pool->block, MREMAP_MAYMOVE));
	EXPECT_EQ(to, mremap(to, pool->bytes, half, 0));
	EXPECT_EQ(SIGSEGV, try_read(to + half));
	EXPECT_EQ(0, check(pool, 0, BLOCKS / 2, 6));
	EXPECT_EQ(MAP_FAILED, mremap(to, half, pool->bytes, MREMAP_MAYMOVE));
	pool->mem = map_aligned(pool->fd, pool->bytes, PROT_READ | PROT_WRITE);
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 6));
	munmap(to, half);
}

TEST_F(map, partial_munmap)
{
	struct pool *pool = &self->pool;
	char *map = map_aligned(pool->fd, pool->bytes, PROT_READ | PROT_WRITE);
	uint64_t i;

	ASSERT_NE(MAP_FAILED, (void *)map);
	fill(pool, 0, BLOCKS, 7);
	for (i = 0; i < BLOCKS; i += 4) {
		(void)*(volatile char *)(map + i * pool->block);
		ASSERT_EQ(0, munmap(map + i * pool->block + 4096, 8192));
		ASSERT_EQ(0, munmap(map + (i + 1) * pool->block, pool->block));
	}
	for (i = 0; i < BLOCKS; i += 4) {
		EXPECT_EQ(SIGSEGV, try_read(map + i * pool->block + 4096));
		EXPECT_EQ(SIGSEGV, try_write(map + (i + 1) * pool->block));
		EXPECT_EQ(0, memcmp(map + i * pool->block, at(pool, i), 4096));
		EXPECT_EQ(0, memcmp(map + i * pool->block + 12288, at(pool, i) + 12288,
				    pool->block - 12288));
	}
	ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
	for (i = 2; i < BLOCKS; i += 4)
		EXPECT_EQ(0, memcmp(map + i * pool->block, at(pool, i), 2 * pool->block));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 7));
	munmap(map, pool->bytes);
}

TEST_F(map, fork)
{
	struct pool *pool = &self->pool;
	int status;
	pid_t pid;

	fill(pool, 0, BLOCKS / 2, 8);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		bool wrong = check(pool, 0, BLOCKS / 2, 8);

		fill(pool, BLOCKS / 2, BLOCKS / 2, 9);
		wrong |= op(pool, KVTIER_OP_DEMOTE, 0, BLOCKS);
		fill(pool, 0, 2, 10);
		_exit(wrong);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, check(pool, 0, 2, 10));
	EXPECT_EQ(0, check(pool, 2, BLOCKS / 2 - 2, 8));
	EXPECT_EQ(0, check(pool, BLOCKS / 2, BLOCKS / 2, 9));
}

/* Each page keeps what it held or reads as zeroes, and every later touch works. */
TEST_F(map, madvise)
{
	static const struct {
		const char *name;
		int advice;
		bool keeps; /* all of the content */
	} advices[] = {
		{ "DONTNEED", MADV_DONTNEED, false },	{ "FREE", MADV_FREE, false },
		{ "REMOVE", MADV_REMOVE, false },	{ "COLD", MADV_COLD, true },
		{ "PAGEOUT", MADV_PAGEOUT, true },	{ "WILLNEED", MADV_WILLNEED, true },
		{ "HUGEPAGE", MADV_HUGEPAGE, true },	{ "NOHUGEPAGE", MADV_NOHUGEPAGE, true },
		{ "MERGEABLE", MADV_MERGEABLE, true },	{ "SEQUENTIAL", MADV_SEQUENTIAL, true },
		{ "RANDOM", MADV_RANDOM, true },	{ "DONTDUMP", MADV_DONTDUMP, true },
		{ "POPULATE", MADV_POPULATE_WRITE, true },
	};
	struct pool *pool = &self->pool;
	uint64_t i, w, word;

	for (i = 0; i < sizeof(advices) / sizeof(advices[0]); i++) {
		ASSERT_EQ(0, op(pool, KVTIER_OP_DISCARD, 0, BLOCKS));
		fill(pool, 0, 4, 20 + i);
		madvise(at(pool, 1) + 8192, 4096, advices[i].advice);
		madvise(at(pool, 2), pool->block, advices[i].advice);
		EXPECT_EQ(0, check(pool, 0, 1, 20 + i)) TH_LOG("%s", advices[i].name);
		EXPECT_EQ(0, check(pool, 3, 1, 20 + i)) TH_LOG("%s", advices[i].name);
		for (w = pool->block / 8; w < 3 * pool->block / 8; w++) {
			word = ((volatile uint64_t *)pool->mem)[w];
			if (word == word_of(w * 8, 20 + i) || (!word && !advices[i].keeps))
				continue;
			EXPECT_EQ(word_of(w * 8, 20 + i), word) TH_LOG("%s", advices[i].name);
			break;
		}
		ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, 4));
		fill(pool, 0, 4, 40);
		EXPECT_EQ(0, check(pool, 0, 4, 40)) TH_LOG("%s", advices[i].name);
	}
}

/* PIN keeps blocks in memory, mlock() does not. */
TEST_F(map, mlock)
{
	struct pool *pool = &self->pool;

	fill(pool, 0, 4, 1);
	mlock(pool->mem, 4 * pool->block);
	EXPECT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, 4));
	EXPECT_EQ(KVTIER_TIER_NVME, info(pool, 0).tier);
	EXPECT_EQ(0, check(pool, 0, 4, 1));
	munlock(pool->mem, 4 * pool->block);
	mlockall(MCL_CURRENT);
	EXPECT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, 4));
	munlockall();
	EXPECT_EQ(0, check(pool, 0, 4, 1));
}

TEST_F(map, left_out_of_core_dumps)
{
	EXPECT_TRUE(smaps_flag(self->pool.mem, " dd"));
	EXPECT_FALSE(smaps_flag(self->pool.mem, " ex"));
}

static int send_fd(int socket, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 }, byte = 'x';
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);

	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(head), &fd, sizeof(int));
	return sendmsg(socket, &message, 0) == 1 ? 0 : -errno;
}

static int receive_fd(int socket)
{
	char control[CMSG_SPACE(sizeof(int))], byte;
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	int fd = -1;

	if (recvmsg(socket, &message, 0) == 1 && CMSG_FIRSTHDR(&message))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	return fd;
}

/* Who is given the descriptor has the pool: maps it, and works on it. */
static int work_with(int fd, size_t bytes, uint32_t shift)
{
	struct pool pool = { .fd = fd, .shift = shift, .block = 1ULL << shift, .bytes = bytes };
	uint64_t wrong;

	pool.mem = map_aligned(fd, bytes, PROT_READ | PROT_WRITE);
	if (pool.mem == MAP_FAILED)
		return 1;
	wrong = check(&pool, 0, 4, 1);
	fill(&pool, 4, 4, 2);
	if (op(&pool, KVTIER_OP_DEMOTE, 0, 8))
		return 2;
	return wrong ? 3 : 0;
}

TEST_F(map, passed_descriptor)
{
	struct pool *pool = &self->pool;
	int sockets[2], status;
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(sockets[0]);
		close(pool->fd);
		munmap(pool->mem, pool->bytes);
		_exit(work_with(receive_fd(sockets[1]), pool->bytes, pool->shift));
	}
	fill(pool, 0, 4, 1);
	ASSERT_EQ(0, send_fd(sockets[0], pool->fd));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, check(pool, 0, 4, 1));
	EXPECT_EQ(0, check(pool, 4, 4, 2));
}

KVT_MAIN(NEEDS_STORE)
