// SPDX-License-Identifier: MIT
/*
 * Checkpoint, adopt, release.  The module keeps slots under a key; a pool remembers
 * its own, so that all of its checkpoints are one reservation, and shows it to who
 * writes a manifest.
 */
#include <errno.h>
#include <string.h>

#include "error.h"
#include "kernel.h"

static bool is_zero(const uint8_t *key)
{
	static const uint8_t none[KVTIER_KEY_BYTES];

	return !memcmp(key, none, sizeof(none));
}

static int checkpoint(struct kvt_kernel *k, struct kvtier_checkpoint *arg)
{
	int ret;

	memcpy(arg->key, k->key.key, sizeof(arg->key));
	ret = kvt_kernel_call(k->fd, KVTIER_IOC_CHECKPOINT, arg);
	if (ret)
		return ret;
	memcpy(k->key.key, arg->key, sizeof(arg->key));
	memcpy(k->key.store, arg->store, sizeof(arg->store));
	return (int)arg->nr;
}

static int explain_checkpoint(int error)
{
	switch (error) {
	case -EINVAL:
		return kvt_fail(error, "the pool was not made with KVT_KEEP_FILE");
	case -EBUSY:
		return kvt_fail(error, "a block of the range is not sealed");
	case -ENOENT:
		return kvt_fail(error, "the pool's key is none of its store's: it was released");
	case -ENOSPC:
		return kvt_fail(error, "the store has no room, or is on hold: see "
				       "/sys/class/kvtier/store*/hold");
	default:
		return kvt_fail(error, "the module cannot make the range durable: %s",
				strerror(-error));
	}
}

int kvt_kernel_checkpoint(struct kvt_pool *pool, uint64_t offset, uint64_t length,
			  struct kvtier_slot *slots)
{
	struct kvt_kernel *k = kvt_kernel_of(pool);
	uint64_t nr = length >> pool->block_shift;
	struct kvtier_checkpoint arg = {
		.size = sizeof(arg),
		.offset = offset,
		.length = length,
		.slots = (uintptr_t)slots,
		.nr = (uint32_t)nr,
	};
	int ret;

	if (nr > INT32_MAX)
		return kvt_fail(-EINVAL, "a checkpoint of more than 2^31 blocks");
	pthread_mutex_lock(&k->lock);
	ret = checkpoint(k, &arg);
	pthread_mutex_unlock(&k->lock);
	return ret < 0 ? explain_checkpoint(ret) : ret;
}

static int explain_adopt(int error)
{
	switch (error) {
	case -EINVAL:
		return kvt_fail(error,
				"a slot or block is not there or named twice, or the pool was "
				"not made with KVT_KEEP_FILE");
	case -EEXIST:
		return kvt_fail(error, "a block to adopt into is not empty: discard it first");
	case -ENODEV:
		return kvt_fail(error, "the slots are in another store than the pool's");
	case -ENOENT:
		return kvt_fail(error,
				"the slots are not reserved by the pool's key: give it theirs "
				"with kvt_pool_set_key()");
	default:
		return kvt_fail(error, "the module cannot adopt: %s", kvt_strerror(error));
	}
}

int kvt_kernel_adopt(struct kvt_pool *pool, const struct kvtier_slot *slots, uint32_t nr)
{
	struct kvt_kernel *k = kvt_kernel_of(pool);
	struct kvtier_adopt arg = { .size = sizeof(arg), .slots = (uintptr_t)slots, .nr = nr };
	struct kvt_key key;
	int ret;

	if (nr > KVTIER_ARRAY_MAX)
		return kvt_fail(-EINVAL, "adopt at most %d slots at a time", KVTIER_ARRAY_MAX);
	pthread_mutex_lock(&k->lock);
	key = k->key;
	pthread_mutex_unlock(&k->lock);
	memcpy(arg.key, key.key, sizeof(arg.key));
	memcpy(arg.store, key.store, sizeof(arg.store));
	if (is_zero(key.key))
		return explain_adopt(-ENOENT);
	ret = kvt_kernel_call(k->fd, KVTIER_IOC_ADOPT, &arg);
	return ret ? explain_adopt(ret) : 0;
}

int kvt_kernel_key(struct kvt_pool *pool, struct kvt_key *key)
{
	struct kvt_kernel *k = kvt_kernel_of(pool);

	pthread_mutex_lock(&k->lock);
	*key = k->key;
	pthread_mutex_unlock(&k->lock);
	return is_zero(key->key) ? kvt_fail(-ENOENT, "the pool has made no checkpoint yet") : 0;
}

int kvt_kernel_set_key(struct kvt_pool *pool, const struct kvt_key *key)
{
	struct kvt_kernel *k = kvt_kernel_of(pool);

	if (is_zero(key->key))
		return kvt_fail(-EINVAL, "a key of zeroes is none");
	pthread_mutex_lock(&k->lock);
	k->key = *key;
	pthread_mutex_unlock(&k->lock);
	return 0;
}

int kvt_kernel_release(struct kvt_pool *pool, const struct kvt_key *key)
{
	struct kvt_kernel *k = kvt_kernel_of(pool);
	struct kvtier_release arg = { .size = sizeof(arg) };
	int ret;

	memcpy(arg.key, key->key, sizeof(arg.key));
	pthread_mutex_lock(&k->lock);
	ret = kvt_kernel_call(k->fd, KVTIER_IOC_RELEASE, &arg);
	if (!ret && !memcmp(k->key.key, key->key, sizeof(arg.key)))
		memset(&k->key, 0, sizeof(k->key));
	pthread_mutex_unlock(&k->lock);
	return ret ? kvt_fail(ret, "no reservation of the pool's store has this key") : 0;
}
