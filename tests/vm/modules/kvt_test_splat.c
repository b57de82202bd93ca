// SPDX-License-Identifier: GPL-2.0-only
/*
 * Positive control of the VM's checks: breaks one rule when it is told to, so that a
 * run can show that its checks see it.  Test only.
 *
 *	echo WHAT >/sys/module/kvt_test_splat/parameters/do
 */
#include <linux/bug.h>
#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);
static DEFINE_SPINLOCK(spin);

static void splat_warn(void)
{
	WARN(1, "asked for\n");
}

/* KASAN: use after free of an object of the slab. */
static void splat_use_after_free(void)
{
	char *object = kmalloc(100, GFP_KERNEL);

	if (!object)
		return;
	OPTIMIZER_HIDE_VAR(object);
	kfree(object);
	WRITE_ONCE(object[8], 1);
}

/* KASAN: beyond the end. */
static void splat_out_of_bounds(void)
{
	char *object = kmalloc(100, GFP_KERNEL);

	if (!object)
		return;
	OPTIMIZER_HIDE_VAR(object);
	WRITE_ONCE(object[105], 1);
	kfree(object);
}

/* lockdep: two orders. */
static void splat_lock_order(void)
{
	mutex_lock(&first);
	mutex_lock(&second);
	mutex_unlock(&second);
	mutex_unlock(&first);
	mutex_lock(&second);
	mutex_lock(&first);
	mutex_unlock(&first);
	mutex_unlock(&second);
}

static void splat_sleep_in_atomic(void)
{
	spin_lock(&spin);
	usleep_range(1000, 2000);
	spin_unlock(&spin);
}

/* kmemleak: nothing points to it. */
static void splat_leak_object(void)
{
	char *object = kmalloc(100, GFP_KERNEL);

	OPTIMIZER_HIDE_VAR(object);
}

/* The difference of free memory. */
static void splat_leak_pages(void)
{
	int i;

	for (i = 0; i < 128; i++)
		alloc_pages(GFP_KERNEL, 9);
}

static const struct {
	const char *name;
	void (*run)(void);
} splats[] = {
	{ "warn", splat_warn },
	{ "use_after_free", splat_use_after_free },
	{ "out_of_bounds", splat_out_of_bounds },
	{ "lock_order", splat_lock_order },
	{ "sleep_in_atomic", splat_sleep_in_atomic },
	{ "leak_object", splat_leak_object },
	{ "leak_pages", splat_leak_pages },
};

static int do_splat(const char *value, const struct kernel_param *param)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(splats); i++) {
		if (sysfs_streq(value, splats[i].name)) {
			splats[i].run();
			return 0;
		}
	}
	return -EINVAL;
}

static const struct kernel_param_ops do_ops = { .set = do_splat };
module_param_cb(do, &do_ops, NULL, 0200);
MODULE_PARM_DESC(do, "the rule to break");

static int __init splat_init(void)
{
	return 0;
}
module_init(splat_init);

static void __exit splat_exit(void)
{
}
module_exit(splat_exit);

MODULE_DESCRIPTION("kvtier test: positive control of the checks");
MODULE_LICENSE("GPL");
