// SPDX-License-Identifier: MIT
/*
 * Make a pool, use each of its tiers a little, and hold it until the end of stdin.  For
 * each line on stdin: verify what is in the pool, and say its statistics, as the ioctl
 * gives them, by the names that they have in sysfs.
 */
#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <linux/kvtier.h>

#define SHIFT KVTIER_SHIFT_MIN
#define BLOCK (1UL << SHIFT)
#define BLOCKS 32 /* of the pool; those of the first half are used */
#define USED (BLOCKS / 2)
#define PINNED 1
#define SEALED 4

static int pool;
static char *memory;
static struct kvtier_info info = { .size = sizeof(info) };

static void make_pool(void)
{
	struct kvtier_pool_create create = {
		.size = sizeof(create),
		.bytes = BLOCKS * BLOCK,
		.block_shift = SHIFT,
		.budget[KVTIER_TIER_DRAM].bytes = BLOCKS / 4 * BLOCK,
		.budget[KVTIER_TIER_NVME].bytes = 2 * BLOCKS * BLOCK,
		.name = "pool_stats",
	};

	if (info.nodes[KVTIER_TIER_CXL])
		create.budget[KVTIER_TIER_CXL].bytes = KVTIER_FRAMES_MIN * BLOCK;
	if (ioctl(pool, KVTIER_IOC_POOL_CREATE, &create))
		err(1, "KVTIER_IOC_POOL_CREATE");
	memory = mmap(NULL, create.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, pool, 0);
	if (memory == MAP_FAILED)
		err(1, "mmap");
	printf("pool%u\n", create.id);
}

static void range_op(enum kvtier_op op, enum kvtier_tier tier, unsigned long first,
		     unsigned long nr)
{
	struct kvtier_range range = { .offset = first * BLOCK, .length = nr * BLOCK };
	struct kvtier_range_op arg = {
		.size = sizeof(arg),
		.op = op,
		.tier = tier,
		.nr = 1,
		.ranges = (uintptr_t)&range,
	};

	if (ioctl(pool, KVTIER_IOC_RANGE_OP, &arg))
		err(1, "KVTIER_IOC_RANGE_OP %d", op);
	if (range.result)
		errx(1, "operation %d: %s", op, strerror(-range.result));
}

static void use_pool(void)
{
	unsigned long i;

	for (i = 0; i < USED; i++)
		memset(memory + i * BLOCK, 1 + i, BLOCK);
	range_op(KVTIER_OP_SEAL, KVTIER_TIER_NONE, 0, SEALED);
	range_op(KVTIER_OP_WRITEBACK, KVTIER_TIER_NONE, 0, USED);
	range_op(KVTIER_OP_DEMOTE, KVTIER_TIER_NVME, 0, USED / 2);
	range_op(KVTIER_OP_PIN, KVTIER_TIER_NONE, 0, PINNED);
	if (info.nodes[KVTIER_TIER_CXL])
		range_op(KVTIER_OP_PROMOTE, KVTIER_TIER_CXL, PINNED, SEALED - PINNED);
}

static void verify(void)
{
	unsigned long i;

	for (i = 0; i < USED * BLOCK; i++) {
		if (memory[i] != (char)(1 + i / BLOCK))
			errx(1, "byte %lu: expected %lu, got %d", i, 1 + i / BLOCK, memory[i]);
	}
}

static void say(const char *name, uint64_t value)
{
	printf("%s %" PRIu64 "\n", name, value);
}

static void say_of(const char *tier, const char *name, uint64_t value)
{
	printf("%s_%s %" PRIu64 "\n", tier, name, value);
}

static void say_tier(const char *name, const struct kvtier_tier_stats *tier)
{
	say_of(name, "budget_bytes", tier->budget_bytes);
	say_of(name, "used_bytes", tier->used_bytes);
	say_of(name, "peak_bytes", tier->peak_bytes);
	say_of(name, "bytes_in", tier->bytes_in);
	say_of(name, "bytes_out", tier->bytes_out);
	say_of(name, "io_errors", tier->io_errors);
	say_of(name, "read_ns", tier->read_ns);
	say_of(name, "write_ns", tier->write_ns);
}

static void say_blocks(const struct kvtier_stats *s)
{
	say("blocks_empty", s->blocks[KVTIER_BLOCK_EMPTY]);
	say("blocks_open", s->blocks[KVTIER_BLOCK_OPEN]);
	say("blocks_sealed", s->blocks[KVTIER_BLOCK_SEALED]);
	say("blocks_clean", s->blocks[KVTIER_BLOCK_CLEAN]);
	say("blocks_cold_open", s->blocks[KVTIER_BLOCK_COLD_OPEN]);
	say("blocks_cold", s->blocks[KVTIER_BLOCK_COLD]);
}

static void say_faults(const struct kvtier_stats *s)
{
	say("faults", s->faults);
	say("soft_faults", s->soft_faults);
	say("hard_faults", s->hard_faults);
	say("late_faults", s->late_faults);
	say("zero_faults", s->zero_faults);
	say("wp_faults", s->wp_faults);
	say("fault_wait_ns", s->fault_wait_ns);
}

static void say_stats(void)
{
	struct kvtier_stats s = { .size = sizeof(s) };

	if (ioctl(pool, KVTIER_IOC_STATS, &s))
		err(1, "KVTIER_IOC_STATS");
	say("bytes", s.bytes);
	say("nr_blocks", s.nr_blocks);
	say("block_bytes", 1ULL << s.block_shift);
	say("pinned_blocks", PINNED); /* the ioctl does not count them */
	say_blocks(&s);
	say_faults(&s);
	say("promoted", s.promoted);
	say("demoted", s.demoted);
	say("written_blocks", s.written_blocks);
	say("clean_drops", s.clean_drops);
	say("crc_errors", s.crc_errors);
	say("bad_blocks", s.bad_blocks);
	say("enospc", s.enospc);
	say("transfer_ns", s.transfer_ns);
	say_tier("dram", &s.tier[KVTIER_TIER_DRAM]);
	say_tier("cxl", &s.tier[KVTIER_TIER_CXL]);
	say_tier("nvme", &s.tier[KVTIER_TIER_NVME]);
	puts("end");
}

int main(void)
{
	char line[64];

	setvbuf(stdout, NULL, _IOLBF, 0);
	pool = open(KVTIER_DEVICE, O_RDWR | O_CLOEXEC);
	if (pool < 0)
		err(1, "%s", KVTIER_DEVICE);
	if (ioctl(pool, KVTIER_IOC_INFO, &info))
		err(1, "KVTIER_IOC_INFO");
	make_pool();
	use_pool();
	while (fgets(line, sizeof(line), stdin)) {
		verify();
		say_stats();
	}
	return 0;
}
