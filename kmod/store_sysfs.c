// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stores in sysfs: format_store and attach_store of the class, and the files of
 * storeN.  Documentation/ABI describes them.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/device.h>
#include <linux/kstrtox.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "store.h"

static struct class *kvt_store_class; /* kvt_store_sysfs_init() */

#define KVT_WORDS_MAX (KVT_STRIPE_MAX + 1) /* devices and "force" */

/* ---- the class: "DEV [DEV...] [force]" ------------------------------------------------- */

/* Cut @line into words; -E2BIG if there are more than KVT_WORDS_MAX. */
static int kvt_words(char *line, char *words[KVT_WORDS_MAX])
{
	char *word;
	int nr = 0;

	while ((word = strsep(&line, " \t\n"))) {
		if (!*word)
			continue;
		if (nr == KVT_WORDS_MAX)
			return -E2BIG;
		words[nr++] = word;
	}
	return nr;
}

/* How many devices were named. */
static int kvt_devices(const char *file, char *line, char *words[KVT_WORDS_MAX], bool *force)
{
	int nr = kvt_words(line, words);

	if (force && nr > 0 && !strcmp(words[nr - 1], "force")) {
		*force = true;
		nr--;
	}
	if (nr < 1 || nr > KVT_STRIPE_MAX) {
		pr_warn_ratelimited("%s: name 1 to %d block devices%s\n", file, KVT_STRIPE_MAX,
				    force ? ", and force to destroy what they hold" : "");
		return -EINVAL;
	}
	return nr;
}

static int kvt_format(const char *buf)
{
	char *line = kstrdup(buf, GFP_KERNEL), *words[KVT_WORDS_MAX];
	bool force = false;
	int ret;

	if (!line)
		return -ENOMEM;
	ret = kvt_devices("format_store", line, words, &force);
	if (ret > 0)
		ret = kvt_store_format(words, ret, force);
	kfree(line);
	return ret;
}

static int kvt_attach(const char *buf)
{
	char *line = kstrdup(buf, GFP_KERNEL), *words[KVT_WORDS_MAX];
	int ret;

	if (!line)
		return -ENOMEM;
	ret = kvt_devices("attach_store", line, words, NULL);
	if (ret > 0)
		ret = kvt_store_attach(words, ret);
	kfree(line);
	return ret;
}

static ssize_t format_store_store(KVT_CLASS_CONST struct class *class,
				  KVT_CLASS_CONST struct class_attribute *attr, const char *buf,
				  size_t count)
{
	if (!kvt_may_change())
		return -EPERM;
	return kvt_format(buf) ?: count;
}
static CLASS_ATTR_WO(format_store);

static ssize_t attach_store_store(KVT_CLASS_CONST struct class *class,
				  KVT_CLASS_CONST struct class_attribute *attr, const char *buf,
				  size_t count)
{
	if (!kvt_may_change())
		return -EPERM;
	return kvt_attach(buf) ?: count;
}
static CLASS_ATTR_WO(attach_store);

/* ---- storeN ------------------------------------------------------------------------------ */

static ssize_t uuid_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct kvt_store *store = dev_get_drvdata(dev);

	return sysfs_emit(buf, "%pUb\n", store->uuid);
}
static DEVICE_ATTR_RO(uuid);

static ssize_t devices_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct kvt_store *store = dev_get_drvdata(dev);
	int at = 0;
	u32 i;

	/* A store that is being detached has closed them. */
	if (!kref_get_unless_zero(&store->ref))
		return -ENODEV;
	for (i = 0; i < store->nr_devices; i++)
		at += sysfs_emit_at(buf, at, "%s%pg", i ? " " : "", store->device[i].bdev);
	kvt_store_unref(store);
	return at + sysfs_emit_at(buf, at, "\n");
}
static DEVICE_ATTR_RO(devices);

/* A number; each of these is read whole, so none needs a lock. */
#define KVT_STORE_NUMBER(_name, _value)                                                           \
	static ssize_t _name##_show(struct device *dev, struct device_attribute *attr, char *buf) \
	{                                                                                         \
		struct kvt_store *store = dev_get_drvdata(dev);                                   \
												  \
		return sysfs_emit(buf, "%llu\n", (unsigned long long)(_value));                   \
	}                                                                                         \
	static DEVICE_ATTR_RO(_name)

KVT_STORE_NUMBER(size_bytes, kvt_store_bytes(store));
KVT_STORE_NUMBER(used_bytes, READ_ONCE(store->nr_used) << KVT_UNIT_SHIFT);
KVT_STORE_NUMBER(claimed_bytes, READ_ONCE(store->claimed));
KVT_STORE_NUMBER(kept_bytes, READ_ONCE(store->kept) << KVT_UNIT_SHIFT);
KVT_STORE_NUMBER(pools, READ_ONCE(store->nr_pools));
KVT_STORE_NUMBER(reservations, READ_ONCE(store->nr_keys));
KVT_STORE_NUMBER(bytes_read, atomic64_read(&store->bytes_read));
KVT_STORE_NUMBER(bytes_written, atomic64_read(&store->bytes_written));
KVT_STORE_NUMBER(io_errors, atomic64_read(&store->io_errors));
KVT_STORE_NUMBER(stalled, atomic64_read(&store->stalled));
KVT_STORE_NUMBER(read_bandwidth, READ_ONCE(store->read_meter.rate));
KVT_STORE_NUMBER(write_bandwidth, READ_ONCE(store->write_meter.rate));
KVT_STORE_NUMBER(reads_in_flight, atomic_read(&store->reads));

static ssize_t hold_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct kvt_store *store = dev_get_drvdata(dev);

	return sysfs_emit(buf, "%d\n", READ_ONCE(store->hold));
}

static ssize_t hold_store(struct device *dev, struct device_attribute *attr, const char *buf,
			  size_t count)
{
	struct kvt_store *store = dev_get_drvdata(dev);
	bool hold;
	int error = kstrtobool(buf, &hold);

	if (!kvt_may_change())
		return -EPERM;
	if (error || hold) {
		pr_warn_ratelimited("store%u: hold can only be lifted: write 0\n", store->id);
		return -EINVAL;
	}
	if (!kref_get_unless_zero(&store->ref)) /* it is being detached */
		return -ENODEV;
	error = kvt_reserve_lift_hold(store);
	kvt_store_unref(store);
	return error ?: count;
}
static DEVICE_ATTR_RW(hold);

static ssize_t detach_store(struct device *dev, struct device_attribute *attr, const char *buf,
			    size_t count)
{
	struct kvt_store *store = dev_get_drvdata(dev);
	bool detach;
	int error = kstrtobool(buf, &detach);

	if (!kvt_may_change())
		return -EPERM;
	if (error || !detach) {
		pr_warn_ratelimited("store%u: to detach it, write 1\n", store->id);
		return -EINVAL;
	}
	return kvt_store_detach(store) ?: count;
}
static DEVICE_ATTR_WO(detach);

/* Who has a key may adopt what it reserves, so this is for the administrator alone. */
static ssize_t keys_read(struct file *file, struct kobject *kobj,
			 KVT_BIN_CONST struct bin_attribute *attr, char *buf, loff_t at,
			 size_t bytes)
{
	return kvt_reserve_show(dev_get_drvdata(kobj_to_dev(kobj)), buf, at, bytes);
}
static KVT_BIN_CONST BIN_ATTR_ADMIN_RO(keys, 0);

static ssize_t release_store(struct device *dev, struct device_attribute *attr, const char *buf,
			     size_t count)
{
	struct kvt_store *store = dev_get_drvdata(dev);
	size_t digits = count - (count && buf[count - 1] == '\n');
	u8 key[KVTIER_KEY_BYTES];
	int error;

	if (!kvt_may_change())
		return -EPERM;
	if (digits != 2 * sizeof(key) || hex2bin(key, buf, sizeof(key))) {
		pr_warn_ratelimited("store%u: release takes a key as keys shows it: %zu hexadecimal digits\n",
				    store->id, 2 * sizeof(key));
		return -EINVAL;
	}
	if (!kref_get_unless_zero(&store->ref)) /* it is being detached */
		return -ENODEV;
	error = kvt_reserve_end(store, key);
	kvt_store_unref(store);
	return error ?: count;
}
static DEVICE_ATTR_WO(release);

static struct attribute *kvt_store_attrs[] = {
	&dev_attr_uuid.attr,
	&dev_attr_devices.attr,
	&dev_attr_size_bytes.attr,
	&dev_attr_used_bytes.attr,
	&dev_attr_claimed_bytes.attr,
	&dev_attr_kept_bytes.attr,
	&dev_attr_pools.attr,
	&dev_attr_reservations.attr,
	&dev_attr_bytes_read.attr,
	&dev_attr_bytes_written.attr,
	&dev_attr_io_errors.attr,
	&dev_attr_stalled.attr,
	&dev_attr_read_bandwidth.attr,
	&dev_attr_write_bandwidth.attr,
	&dev_attr_reads_in_flight.attr,
	&dev_attr_hold.attr,
	&dev_attr_release.attr,
	&dev_attr_detach.attr,
	NULL,
};
ATTRIBUTE_GROUPS(kvt_store);

int kvt_store_sysfs_add(struct kvt_store *store)
{
	struct device *dev = device_create_with_groups(kvt_store_class, NULL, MKDEV(0, 0), store,
						       kvt_store_groups, "store%u", store->id);
	int error;

	if (IS_ERR(dev))
		return PTR_ERR(dev);
	error = device_create_bin_file(dev, &bin_attr_keys);
	if (error)
		device_unregister(dev);
	else
		store->dev = dev;
	return error;
}

int kvt_store_sysfs_init(struct class *class)
{
	int error = class_create_file(class, &class_attr_format_store);

	if (error)
		return error;
	error = class_create_file(class, &class_attr_attach_store);
	if (error) {
		class_remove_file(class, &class_attr_format_store);
		return error;
	}
	kvt_store_class = class;
	return 0;
}

void kvt_store_sysfs_exit(void)
{
	class_remove_file(kvt_store_class, &class_attr_attach_store);
	class_remove_file(kvt_store_class, &class_attr_format_store);
}
