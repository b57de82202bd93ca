// SPDX-License-Identifier: GPL-2.0-only
/*
 * Channels of DMA engines that copy memory: Intel DSA and IOAT, AMD PTDMA, whatever
 * registers with dmaengine for DMA_MEMCPY.
 *
 * A channel does one copy at a time.  So one that is stopped stops no other, and the
 * number of copies under way is that of the channels; when all of them are busy the
 * processor copies.  A channel is asked for when there is a copy and none is idle, at
 * most once a second as long as there is none to be had, so engines may appear at any
 * time.  One with nothing to do for a while is let go: as long as it is held, the
 * module of its engine cannot be unloaded.
 *
 * An engine may fail: then the copy is the processor's.  A channel that fails several
 * times in a row is let go too.
 *
 * An engine may be taken away, of which users of dmaengine are not told; but then the
 * channel's device is no longer registered.  Up to 7.2 at least dmaengine is careless
 * there: it still offers channels of an engine that was taken away while somebody held
 * one (see is_present()), and dma_release_channel() looks at a channel whose driver may
 * have freed it.  Intel's frees the channel of a work queue that is disabled while it is
 * held.  So before an engine is taken away dma_threshold should be raised, and IDLE
 * waited for.
 *
 * An engine may be silent.  After dma_timeout_ms it is stopped.  Those of DSA and IOAT
 * cannot be stopped: then the target is given up for ever, both mappings stay, and the
 * channel is LOST until it reports after all.  As long as one is, this module cannot be
 * unloaded, because the report calls a function of it.
 *
 * Completion is learned from callback_result alone: DSA completes in any order, so its
 * cookies say nothing.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/completion.h>
#include <linux/dma-mapping.h>
#include <linux/dmaengine.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/sysfs.h>

#include "copy.h"

#define CHANNELS_MAX 8
#define RETRY (1 * HZ) /* after there was no channel to be had */
#define REST (10 * HZ) /* after one was let go because it failed */
#define FAILURES_MAX 4 /* in a row */
#define IDLE (5 * HZ)

enum channel_state {
	CHANNEL_NONE,
	CHANNEL_OPENING, /* in this state and the next, who set it has all of the channel */
	CHANNEL_BUSY,
	CHANNEL_IDLE,
	CHANNEL_LOST,
};

struct channel {
	enum channel_state state; /* channels_lock */
	unsigned long idle_since; /* jiffies; channels_lock */
	struct dma_chan *chan;
	struct device *dev; /* that maps for it; held, since the engine may go away */
	struct device *entry; /* the channel's own; held, to see whether it has */
	char name[32];
	u32 failures; /* in a row */
	/* The copy under way. */
	dma_addr_t to, from;
	size_t bytes;
	unsigned long copy; /* its number; reports_lock */
	enum dmaengine_tx_result result;
	struct completion done;
};

static struct channel channels[CHANNELS_MAX];
static DEFINE_SPINLOCK(channels_lock);
static DEFINE_SPINLOCK(reports_lock); /* also taken by reports: irq-safe */
static unsigned long retry_at = INITIAL_JIFFIES; /* racy: a second more or less */

/* ---- to have a channel ------------------------------------------------------------ */

/* The first channel that is @wanted, from now on in @state; NULL: there is none. */
static struct channel *take(bool (*wanted)(struct channel *channel), enum channel_state state)
{
	struct channel *channel, *found = NULL;

	spin_lock(&channels_lock);
	for (channel = channels; !found && channel < channels + CHANNELS_MAX; channel++) {
		if (wanted(channel))
			found = channel;
	}
	if (found)
		found->state = state;
	spin_unlock(&channels_lock);
	return found;
}

static bool is_none(struct channel *channel)
{
	return channel->state == CHANNEL_NONE;
}

static bool is_idle(struct channel *channel)
{
	return channel->state == CHANNEL_IDLE;
}

static bool is_unused(struct channel *channel)
{
	return is_idle(channel) && time_after(jiffies, channel->idle_since + IDLE);
}

/* Lost, and has reported since. */
static bool is_late(struct channel *channel)
{
	return channel->state == CHANNEL_LOST && try_wait_for_completion(&channel->done);
}

static void put(struct channel *channel, enum channel_state state)
{
	spin_lock(&channels_lock);
	channel->state = state;
	channel->idle_since = jiffies;
	spin_unlock(&channels_lock);
}

static bool is_gone(const struct channel *channel)
{
	return !device_is_registered(channel->entry);
}

static void close_channel(struct channel *channel)
{
	dma_release_channel(channel->chan);
	put_device(channel->entry);
	put_device(channel->dev);
	put(channel, CHANNEL_NONE);
}

/*
 * Is this channel's engine there?  If so it stays until its device, now *@engine, is
 * unlocked.
 */
static bool is_present(struct dma_chan *chan, void *param)
{
	struct device **engine = param;

	if (*engine) /* that offer came to nothing */
		device_unlock(*engine);
	*engine = NULL;
	if (!device_trylock(chan->device->dev))
		return false; /* perhaps on its way out, with the lock of dmaengine to come */
	if (chan->device->chancnt) {
		*engine = chan->device->dev;
		return true;
	}
	device_unlock(chan->device->dev);
	return false;
}

static bool open_channel(struct channel *channel)
{
	struct device *engine = NULL;
	struct dma_chan *chan;
	dma_cap_mask_t mask;

	dma_cap_zero(mask);
	dma_cap_set(DMA_MEMCPY, mask);
	chan = dma_request_channel(mask, is_present, &engine);
	if (chan) {
		channel->chan = chan;
		channel->dev = get_device(dmaengine_get_dma_device(chan));
		channel->entry = get_device(&chan->dev->device);
		strscpy(channel->name, dma_chan_name(chan), sizeof(channel->name));
		channel->failures = 0;
		init_completion(&channel->done);
	}
	if (engine)
		device_unlock(engine);
	return chan;
}

/* One that does not reach all memory would make the processor copy twice. */
static bool is_useful(const struct channel *channel)
{
	return !dma_addressing_limited(channel->dev);
}

static struct channel *request(void)
{
	struct channel *channel;

	if (time_before(jiffies, READ_ONCE(retry_at)))
		return NULL;
	channel = take(is_none, CHANNEL_OPENING);
	if (channel && open_channel(channel)) {
		put(channel, CHANNEL_BUSY);
		if (is_useful(channel))
			return channel;
		close_channel(channel);
	} else if (channel) {
		put(channel, CHANNEL_NONE);
	}
	WRITE_ONCE(retry_at, jiffies + RETRY);
	return NULL;
}

/* After a copy that ended, well or not. */
static void give_back(struct channel *channel, int error)
{
	channel->failures = error ? channel->failures + 1 : 0;
	if (channel->failures < FAILURES_MAX && !is_gone(channel)) {
		put(channel, CHANNEL_IDLE);
		return;
	}
	if (error)
		pr_warn_ratelimited("%s failed %u times in a row (%d) and is let go\n",
				    channel->name, channel->failures, error);
	close_channel(channel);
	WRITE_ONCE(retry_at, jiffies + (error ? REST : RETRY));
}

/* ---- one copy ------------------------------------------------------------------------ */

static int map(struct channel *channel, struct folio *to, struct folio *from, u64 bytes)
{
	struct device *dev = channel->dev;

	channel->bytes = bytes;
	channel->from = dma_map_page(dev, folio_page(from, 0), 0, bytes, DMA_TO_DEVICE);
	if (dma_mapping_error(dev, channel->from))
		return -ENOMEM;
	channel->to = dma_map_page(dev, folio_page(to, 0), 0, bytes, DMA_FROM_DEVICE);
	if (!dma_mapping_error(dev, channel->to))
		return 0;
	dma_unmap_page(dev, channel->from, bytes, DMA_TO_DEVICE);
	return -ENOMEM;
}

static void unmap(struct channel *channel)
{
	dma_unmap_page(channel->dev, channel->to, channel->bytes, DMA_FROM_DEVICE);
	dma_unmap_page(channel->dev, channel->from, channel->bytes, DMA_TO_DEVICE);
}

/* A copy's name, for its report: where, and which. */
static void *name_of(const struct channel *channel)
{
	return (void *)(channel->copy * CHANNELS_MAX + (channel - channels));
}

/*
 * Drivers without device_synchronize may report a copy after it was stopped, when the channel
 * has the next one.
 */
static void report(void *name, const struct dmaengine_result *result)
{
	struct channel *channel = channels + (unsigned long)name % CHANNELS_MAX;
	unsigned long flags;

	spin_lock_irqsave(&reports_lock, flags);
	if (name == name_of(channel)) {
		channel->result = result ? result->result : DMA_TRANS_NOERROR;
		complete(&channel->done);
	}
	spin_unlock_irqrestore(&reports_lock, flags);
}

/* From now on reports of the copies before go nowhere. */
static void next_copy(struct channel *channel)
{
	unsigned long flags;

	spin_lock_irqsave(&reports_lock, flags);
	channel->copy++;
	spin_unlock_irqrestore(&reports_lock, flags);
}

static int submit(struct channel *channel)
{
	struct dma_async_tx_descriptor *tx;

	/* NULL also: too much at once for this engine, or it was taken away. */
	tx = dmaengine_prep_dma_memcpy(channel->chan, channel->to, channel->from, channel->bytes,
				       DMA_PREP_INTERRUPT | DMA_CTRL_ACK);
	if (!tx)
		return -EIO;
	next_copy(channel);
	reinit_completion(&channel->done);
	tx->callback_result = report;
	tx->callback_param = name_of(channel);
	if (dma_submit_error(dmaengine_submit(tx)))
		return -EIO;
	dma_async_issue_pending(channel->chan);
	return 0;
}

static int result_of(const struct channel *channel)
{
	return channel->result == DMA_TRANS_NOERROR ? 0 : -EIO;
}

/* 0, an error, or 1: the engine neither reports nor can be stopped. */
static int wait_for_report(struct channel *channel)
{
	u32 ms = READ_ONCE(kvt_policy.dma_timeout_ms);
	bool stopped;

	if (wait_for_completion_timeout(&channel->done, msecs_to_jiffies(ms)))
		return result_of(channel);
	stopped = !dmaengine_terminate_sync(channel->chan);
	if (stopped)
		next_copy(channel);
	if (try_wait_for_completion(&channel->done))
		return result_of(channel); /* it came just now */
	pr_warn_ratelimited("%s did not finish a copy of %zu bytes in %u ms and %s be stopped\n",
			    channel->name, channel->bytes, ms, stopped ? "could" : "cannot");
	return stopped ? -ETIMEDOUT : 1;
}

/* An idle channel whose engine is still there. */
static struct channel *take_present(void)
{
	struct channel *channel;

	while ((channel = take(is_idle, CHANNEL_BUSY))) {
		if (!is_gone(channel))
			break;
		close_channel(channel);
	}
	return channel;
}

int kvt_dma_copy(struct folio *to, struct folio *from, u64 bytes)
{
	struct channel *channel = take_present();
	int ret;

	if (!channel)
		channel = request();
	if (!channel)
		return -EAGAIN;
	ret = map(channel, to, from, bytes);
	if (ret)
		goto give_back;
	ret = submit(channel);
	if (!ret)
		ret = wait_for_report(channel);
	if (ret > 0) {
		__module_get(THIS_MODULE); /* until kvt_dma_trim() */
		put(channel, CHANNEL_LOST);
		return ret;
	}
	unmap(channel);
give_back:
	give_back(channel, ret);
	return ret;
}

/* ---- by the worker ---------------------------------------------------------------------- */

void kvt_dma_trim(void)
{
	struct channel *channel;

	while ((channel = take(is_late, CHANNEL_BUSY))) {
		pr_info("%s has finished, late, and is used again\n", channel->name);
		unmap(channel);
		give_back(channel, 0);
		module_put(THIS_MODULE); /* the worker ends before the module does */
	}
	while ((channel = take(is_unused, CHANNEL_BUSY)))
		close_channel(channel);
}

void kvt_dma_exit(void)
{
	struct channel *channel;

	while ((channel = take(is_idle, CHANNEL_BUSY)))
		close_channel(channel);
}

ssize_t kvt_dma_show(char *page)
{
	struct channel *channel;
	int at = 0;

	spin_lock(&channels_lock);
	for (channel = channels; channel < channels + CHANNELS_MAX; channel++) {
		if (channel->state > CHANNEL_OPENING)
			at += sysfs_emit_at(page, at, "%s%s%s", at ? " " : "", channel->name,
					    channel->state == CHANNEL_LOST ? " (lost)" : "");
	}
	spin_unlock(&channels_lock);
	return at + sysfs_emit_at(page, at, "\n");
}
