// SPDX-License-Identifier: GPL-2.0-only
/*
 * A DMA engine in software, for machines that have none: what asks dmaengine for a
 * channel that copies memory gets one of these.  It copies with the processor, in a
 * worker, so completions are as asynchronous as those of hardware.  Parameters make it
 * slow, wrong and silent:
 *
 *   nchan       channels (when the engine is made)
 *   delay_us    how long a copy takes at least
 *   fail_every  every n-th copy ends with an error, with half of it done
 *   drop_every  every n-th copy is not done and not reported
 *   late_ms     ... but it is so much later, to wherever it was meant to go
 *   max_bytes   larger copies are refused (0: none is)
 *   idxd_like   as Intel DSA does: completes the last first, tells nothing by cookies,
 *               and cannot be stopped (when the engine is made)
 *
 * To take the engine away from those who use it, and to bring it back:
 *
 *   echo kvtier_test_dma > /sys/bus/platform/drivers/kvtier_test_dma/unbind (or bind)
 *
 * The counters copied, failed, dropped and late are parameters too, for reading.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/dma-direct.h>
#include <linux/dma-mapping.h>
#include <linux/dmaengine.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#define NAME "kvtier_test_dma"
#define CHANNELS_MAX 8

static unsigned int nchan = 2;
module_param(nchan, uint, 0644);
static unsigned int delay_us;
module_param(delay_us, uint, 0644);
static unsigned int fail_every;
module_param(fail_every, uint, 0644);
static unsigned int drop_every;
module_param(drop_every, uint, 0644);
static unsigned int late_ms;
module_param(late_ms, uint, 0644);
static unsigned int max_bytes;
module_param(max_bytes, uint, 0644);
static bool idxd_like;
module_param(idxd_like, bool, 0644);

static DEFINE_SPINLOCK(counter_lock); /* the next four */
static ulong copied, failed, dropped, late;
module_param(copied, ulong, 0444);
module_param(failed, ulong, 0444);
module_param(dropped, ulong, 0444);
module_param(late, ulong, 0444);

struct copy {
	struct dma_async_tx_descriptor tx;
	struct list_head link; /* queued, issued or silent of its channel */
	struct delayed_work late;
	bool comes_late; /* .late is queued or runs; the channel's lock */
	dma_addr_t to, from;
	size_t bytes;
};

struct channel {
	struct dma_chan chan;
	spinlock_t lock; /* the lists, nr, the cookies and .failed */
	struct list_head queued; /* submitted */
	struct list_head issued; /* to be done by .work */
	struct list_head silent; /* dropped */
	unsigned long nr; /* copies begun */
	dma_cookie_t failed; /* the last */
	struct work_struct work;
};

struct engine {
	struct dma_device dma;
	bool idxd_like;
	bool gone; /* its device is */
	struct list_head link; /* engines */
	struct channel channels[CHANNELS_MAX];
};

static struct workqueue_struct *queue;
static struct platform_device *device;
static LIST_HEAD(engines); /* all that ever were; changed by probe() alone */

static struct channel *channel_of(struct dma_chan *chan)
{
	return container_of(chan, struct channel, chan);
}

static struct engine *engine_of(struct dma_chan *chan)
{
	return container_of(chan->device, struct engine, dma);
}

static void count(ulong *counter)
{
	spin_lock(&counter_lock);
	++*counter;
	spin_unlock(&counter_lock);
}

/* ---- one copy -------------------------------------------------------------------- */

static void *address_of(struct dma_chan *chan, dma_addr_t addr)
{
	return phys_to_virt(dma_to_phys(chan->device->dev, addr));
}

static void move_bytes(struct copy *copy, size_t bytes)
{
	struct dma_chan *chan = copy->tx.chan;

	memcpy(address_of(chan, copy->to), address_of(chan, copy->from), bytes);
}

/* Tell who asked for it; the copy is gone then. */
static void report(struct copy *copy, enum dmaengine_tx_result result)
{
	const struct dmaengine_result res = { .result = result };
	struct dma_async_tx_descriptor tx = copy->tx;
	struct channel *channel = channel_of(tx.chan);

	spin_lock_irq(&channel->lock);
	channel->chan.completed_cookie = tx.cookie;
	if (result != DMA_TRANS_NOERROR)
		channel->failed = tx.cookie;
	spin_unlock_irq(&channel->lock);
	kfree(copy);
	if (tx.callback_result)
		tx.callback_result(tx.callback_param, &res);
	else if (tx.callback)
		tx.callback(tx.callback_param);
}

/* What was dropped, done after all. */
static void do_late(struct work_struct *work)
{
	struct copy *copy = container_of(to_delayed_work(work), struct copy, late);
	struct channel *channel = channel_of(copy->tx.chan);

	spin_lock_irq(&channel->lock);
	list_del(&copy->link);
	spin_unlock_irq(&channel->lock);
	move_bytes(copy, copy->bytes);
	count(&late);
	report(copy, DMA_TRANS_NOERROR);
}

static void drop(struct channel *channel, struct copy *copy)
{
	unsigned int ms = READ_ONCE(late_ms);

	count(&dropped);
	spin_lock_irq(&channel->lock);
	list_add_tail(&copy->link, &channel->silent);
	copy->comes_late = ms;
	if (ms)
		queue_delayed_work(queue, &copy->late, msecs_to_jiffies(ms));
	spin_unlock_irq(&channel->lock);
}

static bool is_turn(unsigned long nr, unsigned int every)
{
	return every && nr % every == 0;
}

static void do_copy(struct channel *channel, struct copy *copy, unsigned long nr)
{
	unsigned int us = READ_ONCE(delay_us);

	if (us)
		usleep_range(us, us + us / 4 + 1);
	if (is_turn(nr, READ_ONCE(drop_every))) {
		drop(channel, copy);
	} else if (is_turn(nr, READ_ONCE(fail_every))) {
		move_bytes(copy, copy->bytes / 2);
		count(&failed);
		report(copy, DMA_TRANS_WRITE_FAILED);
	} else {
		move_bytes(copy, copy->bytes);
		count(&copied);
		report(copy, DMA_TRANS_NOERROR);
	}
}

static struct copy *next_copy(struct channel *channel, unsigned long *nr)
{
	struct copy *copy;

	spin_lock_irq(&channel->lock);
	if (engine_of(&channel->chan)->idxd_like && !list_empty(&channel->issued))
		copy = list_last_entry(&channel->issued, struct copy, link);
	else
		copy = list_first_entry_or_null(&channel->issued, struct copy, link);
	if (copy) {
		list_del(&copy->link);
		*nr = ++channel->nr;
	}
	spin_unlock_irq(&channel->lock);
	return copy;
}

static void do_copies(struct work_struct *work)
{
	struct channel *channel = container_of(work, struct channel, work);
	struct copy *copy;
	unsigned long nr;

	while ((copy = next_copy(channel, &nr)))
		do_copy(channel, copy, nr);
}

/* ---- what dmaengine asks ------------------------------------------------------------ */

static dma_cookie_t submit(struct dma_async_tx_descriptor *tx)
{
	struct copy *copy = container_of(tx, struct copy, tx);
	struct channel *channel = channel_of(tx->chan);
	dma_cookie_t cookie;
	unsigned long flags;

	spin_lock_irqsave(&channel->lock, flags);
	cookie = channel->chan.cookie + 1;
	if (cookie < DMA_MIN_COOKIE)
		cookie = DMA_MIN_COOKIE;
	tx->cookie = cookie;
	channel->chan.cookie = cookie;
	list_add_tail(&copy->link, &channel->queued);
	spin_unlock_irqrestore(&channel->lock, flags);
	return cookie;
}

static struct dma_async_tx_descriptor *prepare(struct dma_chan *chan, dma_addr_t to,
					       dma_addr_t from, size_t bytes, unsigned long flags)
{
	unsigned int max = READ_ONCE(max_bytes);
	struct copy *copy;

	if (READ_ONCE(engine_of(chan)->gone) || (max && bytes > max))
		return NULL;
	copy = kzalloc(sizeof(*copy), GFP_NOWAIT);
	if (!copy)
		return NULL;
	dma_async_tx_descriptor_init(&copy->tx, chan);
	copy->tx.tx_submit = submit;
	copy->tx.flags = flags;
	INIT_DELAYED_WORK(&copy->late, do_late);
	copy->to = to;
	copy->from = from;
	copy->bytes = bytes;
	return &copy->tx;
}

static void issue_pending(struct dma_chan *chan)
{
	struct channel *channel = channel_of(chan);
	unsigned long flags;

	spin_lock_irqsave(&channel->lock, flags);
	list_splice_tail_init(&channel->queued, &channel->issued);
	spin_unlock_irqrestore(&channel->lock, flags);
	queue_work(queue, &channel->work);
}

static enum dma_status tx_status(struct dma_chan *chan, dma_cookie_t cookie,
				 struct dma_tx_state *state)
{
	if (state) {
		state->last = chan->completed_cookie;
		state->used = chan->cookie;
		state->residue = 0;
	}
	if (engine_of(chan)->idxd_like)
		return DMA_OUT_OF_ORDER;
	if (cookie == channel_of(chan)->failed)
		return DMA_ERROR;
	return dma_async_is_complete(cookie, chan->completed_cookie, chan->cookie);
}

/* Forget what has not begun, and what is late; sleeps. */
static void forget(struct channel *channel)
{
	struct copy *copy, *next;
	LIST_HEAD(copies);

	spin_lock_irq(&channel->lock);
	list_splice_init(&channel->queued, &copies);
	list_splice_tail_init(&channel->issued, &copies);
	/* One whose work runs already takes itself off the list. */
	list_for_each_entry_safe(copy, next, &channel->silent, link) {
		if (!copy->comes_late || cancel_delayed_work(&copy->late))
			list_move_tail(&copy->link, &copies);
	}
	spin_unlock_irq(&channel->lock);
	list_for_each_entry_safe(copy, next, &copies, link)
		kfree(copy);
}

static int terminate_all(struct dma_chan *chan)
{
	forget(channel_of(chan));
	return 0;
}

static void synchronize(struct dma_chan *chan)
{
	flush_work(&channel_of(chan)->work);
	forget(channel_of(chan)); /* what the work dropped meanwhile */
	flush_workqueue(queue); /* and what it does late */
}

static int alloc_chan_resources(struct dma_chan *chan)
{
	chan->cookie = DMA_MIN_COOKIE;
	chan->completed_cookie = DMA_MIN_COOKIE;
	return 1;
}

static void free_chan_resources(struct dma_chan *chan)
{
	terminate_all(chan);
	synchronize(chan);
}

/* ---- the engine's life ------------------------------------------------------------------ */

/*
 * Nobody has a channel any more.  dma_release_channel() still looks at the last of them
 * after this, so the memory stays until the module goes.
 */
static void release(struct dma_device *dma)
{
}

static void free_engines(void)
{
	struct engine *engine, *next;

	list_for_each_entry_safe(engine, next, &engines, link)
		kfree(engine);
}

static void init_channel(struct engine *engine, struct channel *channel)
{
	spin_lock_init(&channel->lock);
	INIT_LIST_HEAD(&channel->queued);
	INIT_LIST_HEAD(&channel->issued);
	INIT_LIST_HEAD(&channel->silent);
	INIT_WORK(&channel->work, do_copies);
	channel->chan.device = &engine->dma;
	list_add_tail(&channel->chan.device_node, &engine->dma.channels);
}

static struct engine *engine_new(struct device *dev)
{
	struct engine *engine = kzalloc(sizeof(*engine), GFP_KERNEL);
	struct dma_device *dma;
	unsigned int i;

	if (!engine)
		return NULL;
	dma = &engine->dma;
	engine->idxd_like = idxd_like;
	INIT_LIST_HEAD(&dma->channels);
	for (i = 0; i < clamp(nchan, 1U, CHANNELS_MAX); i++)
		init_channel(engine, &engine->channels[i]);
	dma_cap_set(DMA_MEMCPY, dma->cap_mask);
	dma_cap_set(DMA_PRIVATE, dma->cap_mask);
	dma->dev = dev;
	dma->copy_align = DMAENGINE_ALIGN_1_BYTE;
	dma->device_alloc_chan_resources = alloc_chan_resources;
	dma->device_free_chan_resources = free_chan_resources;
	dma->device_prep_dma_memcpy = prepare;
	dma->device_issue_pending = issue_pending;
	dma->device_tx_status = tx_status;
	dma->device_release = release;
	if (!engine->idxd_like) {
		dma->device_terminate_all = terminate_all;
		dma->device_synchronize = synchronize;
	}
	return engine;
}

static void unregister(void *data)
{
	struct engine *engine = data;

	WRITE_ONCE(engine->gone, true);
	flush_workqueue(queue); /* what has begun is finished */
	dma_async_device_unregister(&engine->dma);
}

/* dmaengine wants a device that is bound to a driver. */
static int probe(struct platform_device *pdev)
{
	struct engine *engine;
	int ret;

	ret = dma_coerce_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (ret)
		return ret;
	engine = engine_new(&pdev->dev);
	if (!engine)
		return -ENOMEM;
	ret = dma_async_device_register(&engine->dma);
	if (ret) {
		kfree(engine);
		return ret;
	}
	list_add(&engine->link, &engines);
	return devm_add_action_or_reset(&pdev->dev, unregister, engine);
}

static struct platform_driver driver = {
	.probe = probe,
	.driver = { .name = NAME },
};

static int __init test_dma_init(void)
{
	int ret;

	queue = alloc_workqueue(NAME, WQ_UNBOUND | WQ_HIGHPRI | WQ_MEM_RECLAIM, 0);
	if (!queue)
		return -ENOMEM;
	ret = platform_driver_register(&driver);
	if (ret)
		goto destroy_queue;
	device = platform_device_register_simple(NAME, PLATFORM_DEVID_NONE, NULL, 0);
	ret = PTR_ERR_OR_ZERO(device);
	if (ret)
		goto unregister_driver;
	return 0;

unregister_driver:
	platform_driver_unregister(&driver);
	free_engines();
destroy_queue:
	destroy_workqueue(queue);
	return ret;
}

static void __exit test_dma_exit(void)
{
	platform_device_unregister(device);
	platform_driver_unregister(&driver);
	destroy_workqueue(queue);
	free_engines();
}

module_init(test_dma_init);
module_exit(test_dma_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("DMA engine in software, for tests");
