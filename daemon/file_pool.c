// SPDX-License-Identifier: MIT
/*
 * Pools without the module: a memory file that clients map, and whose page faults their
 * userfaultfds bring to us.  We have a mapping of our own (the alias), through which
 * slots are read and written; what is in the file is not seen by clients before it is
 * verified, since pages that they do not map are faults too.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvtierd.h"
#include "vma.h"

#define HUGE_BYTES (2u << 20)
/* A setting of kernels that know other sizes than that. */
#define PAGE_SIZES "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/shmem_enabled"
#ifndef UFFDIO_CONTINUE_MODE_WP
#define UFFDIO_CONTINUE_MODE_WP (1ull << 1)
#endif

/*
 * Pages as large as a block, where the administrator allows them (kvtierd(8)), and no
 * larger ones: those would be memory of blocks that are not in memory.  A kernel that
 * knows other sizes than 2 MiB takes none that does not fit where the mapping begins.
 */
static void choose_pages(const struct pool *p)
{
	bool fit = p->block_bytes >= HUGE_BYTES || !access(PAGE_SIZES, F_OK);

	madvise(p->alias, p->t->bytes, fit ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

static int map_alias(struct pool *p)
{
	/* A multiple of the block and not of twice as much. */
	size_t odd = p->block_bytes < HUGE_BYTES ? p->block_bytes : 0;
	char *room = kvt_vma_reserve(odd + p->t->bytes);
	void *map;
	int error;

	if (!room)
		return kvt_fail(-errno, "no address space of %llu MiB: %s",
				(unsigned long long)p->t->bytes >> 20, strerror(errno));
	map = mmap(room + odd, p->t->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		   p->fd, 0);
	if (map == MAP_FAILED) {
		error = -errno;
		munmap(room, odd + p->t->bytes);
		return kvt_fail(error, "cannot map %llu MiB: %s",
				(unsigned long long)p->t->bytes >> 20, strerror(-error));
	}
	if (odd)
		munmap(room, odd);
	p->alias = room + odd;
	madvise(p->alias, p->t->bytes, MADV_DONTDUMP);
	choose_pages(p);
	return 0;
}

static int make_lists(struct pool *p)
{
	p->frames = malloc(p->nr_blocks * sizeof(*p->frames));
	p->queue = malloc(p->nr_blocks * sizeof(*p->queue));
	if (!p->frames || !p->queue ||
	    kvt_slots_init(&p->slots, (uint32_t)(p->t->budget[KVTIER_TIER_NVME] >> p->shift)))
		return kvt_fail(-ENOMEM, "no memory for the pool's lists");
	return 0;
}

static int make_memory(struct pool *p)
{
	p->fd = memfd_create("kvtier-pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (p->fd < 0 || ftruncate(p->fd, (off_t)p->t->bytes) ||
	    fcntl(p->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return kvt_fail(-errno, "cannot make a memory file of %llu MiB: %s",
				(unsigned long long)p->t->bytes >> 20, strerror(errno));
	return map_alias(p);
}

int file_pool_create(struct pool *p)
{
	int ret = make_memory(p);

	if (!ret)
		ret = make_lists(p);
	return ret;
}

/* The same over slots that a manifest describes. */
int file_pool_restore(struct pool *p, int slots_fd)
{
	int ret = make_memory(p);

	p->slots_fd = slots_fd;
	return ret ? ret : make_lists(p);
}

/* The last close of a file without a name gives its blocks back: a disk may be slow to. */
struct last_close {
	struct job job; /* first */
	int fd;
};

static int close_in_job(struct job *job)
{
	close(((struct last_close *)job)->fd);
	return 0;
}

static void closed(struct job *job, int result)
{
	(void)result;
	free(job);
}

/* Not by the ring: what a pool is made of next may need that room, and is asked for later. */
static void close_slots(struct pool *p)
{
	struct last_close *last = p->d->stop ? NULL : malloc(sizeof(*last));

	if (!last) {
		close(p->slots_fd);
		return;
	}
	*last = (struct last_close){ .job = { .work = close_in_job, .done = closed },
				     .fd = p->slots_fd };
	job_submit(p->d, &last->job);
}

void file_pool_destroy(struct pool *p)
{
	tenant_charge(p->d, p->tenant, KVTIER_TIER_DRAM, -(int64_t)p->nr_frames * p->block_bytes);
	if (p->alias)
		munmap(p->alias, p->t->bytes);
	if (p->fd >= 0)
		empty_elsewhere(p->d, p->fd, p->t->bytes);
	if (p->slots_fd >= 0)
		close_slots(p);
	kvt_slots_exit(&p->slots);
	waits_exit(p);
	free(p->frames);
	free(p->queue);
}

/* ---- of a predecessor -------------------------------------------------------------------- */

static void punch(struct pool *p, uint32_t first, uint32_t nr)
{
	if (nr)
		fallocate(p->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  (off_t)((uint64_t)first << p->shift), (off_t)((uint64_t)nr << p->shift));
}

/* What it was doing to a block is undone, or was done. */
static void settle(struct pool *p, struct block *blk)
{
	if (blk->where == W_WRITING) {
		/* Its write may still be under way: the slot stays taken, and is not used. */
		blk->flags |= B_DIRTY;
		blk->slot = KVT_SLOT_NONE;
		blk->where = W_RESIDENT;
	} else if (blk->where == W_READING) {
		blk->where = W_COLD;
	}
	if (blk->where == W_EMPTY || (blk->where == W_RESIDENT && blk->flags & B_DIRTY))
		blk->slot = KVT_SLOT_NONE;
	if (blk->slot != KVT_SLOT_NONE && blk->slot >= p->slots.nr) {
		blk->slot = KVT_SLOT_NONE;
		if (blk->where == W_COLD)
			blk->where = W_BAD;
	}
	/* A device may have written to what was pinned: its unpin would have said so. */
	if (blk->pins && blk->where == W_RESIDENT && !(blk->flags & B_SEALED)) {
		blk->flags |= B_DIRTY;
		blk->slot = KVT_SLOT_NONE;
		blk->generation++;
	}
	blk->flags &= B_DIRTY | B_SEALED | B_REUSED;
	blk->pins = 0;
	blk->busy = 0;
	blk->frame = NO_BLOCK;
}

/*
 * Slots to which the predecessor was writing when it was killed: what is written there
 * now may be overwritten, until those transfers have ended.  For that fallocate() waits,
 * as whatever changes a file's extents must (ext4, xfs, btrfs); in the second thread,
 * because it waits as long as the device takes.
 */
struct doubts {
	struct job job; /* first */
	struct pool *pool;
	uint32_t nr;
	uint32_t slots[MAX_IOS];
};

static void doubt(struct pool *p, uint32_t slot)
{
	if (!p->doubts)
		p->doubts = calloc(1, sizeof(*p->doubts));
	if (p->doubts && p->doubts->nr < MAX_IOS)
		p->doubts->slots[p->doubts->nr++] = slot;
}

static int wait_for_transfers(struct job *job)
{
	struct pool *p = ((struct doubts *)job)->pool;

	return fallocate(p->slots_fd, FALLOC_FL_KEEP_SIZE, 0, p->block_bytes) ? -errno : 0;
}

static void transfers_ended(struct job *job, int result)
{
	struct doubts *doubts = (struct doubts *)job;
	struct pool *p = doubts->pool;

	while (!result && doubts->nr)
		kvt_slot_put(&p->slots, doubts->slots[--doubts->nr]);
	p->doubts = NULL;
	free(doubts);
	p->ios--;
	file_progress(p);
}

static void wait_for_doubts(struct pool *p)
{
	if (!p->doubts)
		return;
	p->doubts->job = (struct job){ .work = wait_for_transfers, .done = transfers_ended };
	p->doubts->pool = p;
	p->ios++;
	job_submit(p->d, &p->doubts->job);
}

static void settle_all(struct pool *p)
{
	uint32_t b, hole = 0;

	for (b = 0; b < p->nr_blocks; b++) {
		struct block *blk = block_of(p, b);
		uint32_t doubtful = blk->where == W_WRITING ? blk->slot : KVT_SLOT_NONE;

		settle(p, blk);
		if (!kvt_slot_claim(&p->slots, doubtful))
			doubt(p, doubtful);
		if (blk->slot != KVT_SLOT_NONE && kvt_slot_claim(&p->slots, blk->slot))
			kvt_slot_share(&p->slots, blk->slot);
		if (blk->where != W_RESIDENT) {
			hole++;
			continue;
		}
		punch(p, b - hole, hole);
		hole = 0;
		blk->frame = p->nr_frames;
		p->frames[p->nr_frames++] = b;
		if (blk->flags & B_SEALED && blk->flags & B_DIRTY)
			writeback_queue(p, b);
	}
	punch(p, b - hole, hole);
}

int file_pool_take_back(struct pool *p)
{
	int ret = map_alias(p);

	if (!ret)
		ret = make_lists(p);
	if (!ret && p->slots_fd < 0)
		ret = kvt_fail(-EBADF, "the slots are missing");
	if (ret) {
		if (p->alias)
			munmap(p->alias, p->t->bytes);
		kvt_slots_exit(&p->slots);
		free(p->frames);
		free(p->queue);
		return ret;
	}
	settle_all(p);
	checkpoint_reload_kept(p);
	wait_for_doubts(p);
	tenant_charge(p->d, p->tenant, KVTIER_TIER_DRAM, (int64_t)p->nr_frames * p->block_bytes);
	return 0;
}

/* ---- a client's mapping ------------------------------------------------------------------ */

/*
 * Nothing is asked of a descriptor before we know that it is a userfaultfd: another file's
 * system may be its client's own, and let us wait.  Its features stand in fdinfo.  One
 * with events would have us read those first, in the middle of what we do; without the
 * thread's number nobody can be told that his access failed.
 */
static int check_uffd(int uffd)
{
	static const uint64_t events = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
				       UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP;
	unsigned long long api = 0, features = 0;
	char path[64], line[256];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", uffd);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "API: %llx:%llx", &api, &features) == 2)
			break;
	if (file)
		fclose(file);
	if (api != UFFD_API)
		return kvt_fail(-EINVAL, "the descriptor is no userfaultfd");
	if (features & events || !(features & UFFD_FEATURE_THREAD_ID))
		return kvt_fail(-EINVAL,
				"the userfaultfd must tell threads (UFFD_FEATURE_THREAD_ID), and "
				"nothing but faults");
	return 0;
}

int file_pool_map(struct attachment *a, int uffd, uint64_t addr)
{
	struct uffdio_range range = { .start = addr, .len = a->pool->t->bytes };
	int flags = fcntl(uffd, F_GETFL), ret;

	if (a->uffd >= 0)
		return kvt_fail(-EBUSY, "this use of the pool has its mapping already");
	if (addr & 4095 || addr + range.len < addr)
		return kvt_fail(-EINVAL, "a mapping's address is not of whole pages");
	ret = check_uffd(uffd);
	if (ret)
		return ret;
	/* Waking is harmless, and works on userfaultfds alone; who waited before asks again. */
	if (flags < 0 || ioctl(uffd, UFFDIO_WAKE, &range))
		return kvt_fail(-EINVAL, "the descriptor is no userfaultfd of a mapping there: %s",
				strerror(errno));
	if (!(flags & O_NONBLOCK) && fcntl(uffd, F_SETFL, flags | O_NONBLOCK))
		return kvt_fail(-errno, "the userfaultfd: %s", strerror(errno));
	a->faults = watch_start(a->pool->d, uffd, file_faults, a);
	if (!a->faults)
		return -ENOMEM;
	a->uffd = uffd;
	a->addr = addr;
	return 0;
}

/* Can this kernel do all that serving others' faults needs?  Tried on a page of our own. */
int file_pool_probe(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM |
			    UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_PAGEFAULT_FLAG_WP,
	};
	struct uffdio_register reg = {
		.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR |
			UFFDIO_REGISTER_MODE_WP,
	};
	struct uffdio_continue cont = { .mode = UFFDIO_CONTINUE_MODE_WP };
	int fd = memfd_create("kvtier-probe", MFD_CLOEXEC), ret = -ENOSYS, uffd;
	void *map;

	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	map = fd < 0 || ftruncate(fd, 4096) ?
		      MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	reg.range = cont.range = (struct uffdio_range){ (uintptr_t)map, 4096 };
	if (uffd >= 0 && map != MAP_FAILED && pwrite(fd, "x", 1, 0) == 1 &&
	    !ioctl(uffd, UFFDIO_API, &api) && !ioctl(uffd, UFFDIO_REGISTER, &reg) &&
	    !ioctl(uffd, UFFDIO_CONTINUE, &cont))
		ret = 0;
	if (map != MAP_FAILED)
		munmap(map, 4096);
	if (uffd >= 0)
		close(uffd);
	if (fd >= 0)
		close(fd);
	return ret ? kvt_fail(ret, "this kernel cannot share pools without the module: "
				   "userfaultfd of Linux 6.4 or newer is needed") : 0;
}

/* ---- what it shows ----------------------------------------------------------------------- */

static uint32_t state_of(const struct block *blk)
{
	bool sealed = blk->flags & B_SEALED;

	switch (blk->where) {
	case W_RESIDENT:
		if (!sealed)
			return KVTIER_BLOCK_OPEN;
		return blk->flags & B_DIRTY ? KVTIER_BLOCK_SEALED : KVTIER_BLOCK_CLEAN;
	case W_READING:
	case W_WRITING:
		return KVTIER_BLOCK_MOVING;
	case W_COLD:
		return sealed ? KVTIER_BLOCK_COLD : KVTIER_BLOCK_COLD_OPEN;
	case W_BAD:
		return KVTIER_BLOCK_BAD;
	default:
		return KVTIER_BLOCK_EMPTY;
	}
}

static void show(struct pool *p, uint32_t b, struct kvtier_block_info *info)
{
	const struct block *blk = block_of(p, b);
	bool in_slot = blk->slot != KVT_SLOT_NONE && !(blk->flags & B_DIRTY);

	*info = (struct kvtier_block_info){
		.generation = blk->generation,
		.slot = in_slot ? blk->slot : KVTIER_NO_SLOT,
		.heat = blk->heat,
		.crc32c = in_slot ? blk->crc : 0,
		.node = KVTIER_NO_NODE,
		.tier = blk->frame != NO_BLOCK ? KVTIER_TIER_DRAM :
			blk->where == W_COLD   ? KVTIER_TIER_NVME : KVTIER_TIER_NONE,
		.state = (uint8_t)state_of(blk),
	};
	if (blk->flags & B_DIRTY)
		info->flags |= KVTIER_BLOCKF_DIRTY;
	if (blk->pins)
		info->flags |= KVTIER_BLOCKF_PINNED;
	if (blk->flags & B_HINT)
		info->flags |= KVTIER_BLOCKF_COLD;
	if (blk->where == W_RESIDENT || blk->where == W_WRITING)
		info->flags |= KVTIER_BLOCKF_MAPPED;
	if (in_slot && kvt_slot_shared(&p->slots, blk->slot))
		info->flags |= KVTIER_BLOCKF_SHARED;
}

int file_pool_query(struct pool *p, uint64_t first, uint32_t nr, struct kvtier_block_info *infos)
{
	uint32_t i;

	for (i = 0; i < nr; i++)
		show(p, (uint32_t)first + i, &infos[i]);
	return 0;
}

void file_pool_stats(struct pool *p, struct kvtier_stats *st)
{
	uint32_t b, t;

	*st = p->stats;
	st->size = sizeof(*st);
	st->block_shift = p->shift;
	st->bytes = p->t->bytes;
	st->nr_blocks = p->nr_blocks;
	for (b = 0; b < p->nr_blocks; b++)
		st->blocks[state_of(block_of(p, b))]++;
	st->bad_blocks = st->blocks[KVTIER_BLOCK_BAD];
	st->transfer_ns = st->tier[KVTIER_TIER_NVME].read_ns;
	for (t = 0; t < KVTIER_NR_TIERS; t++)
		st->tier[t].budget_bytes = p->t->budget[t];
	st->tier[KVTIER_TIER_DRAM].used_bytes = (uint64_t)p->nr_frames << p->shift;
	st->tier[KVTIER_TIER_NVME].used_bytes = (uint64_t)(p->slots.nr - p->slots.nr_free)
						<< p->shift;
}
