/* What all device models share; see dev.h. */
#include "dev/dev.h"

#include "base/log.h"

void wslx_vdev_notify_used(struct wslx_vdev *d, unsigned q)
{
	if (wslx_vq_should_notify(&d->vq[q]) && d->transport_ops)
		d->transport_ops->interrupt(d->transport, q);
}

void wslx_vdev_broken(struct wslx_vdev *d, const char *why)
{
	log_guest("%s: %s; the device waits for a reset", d->name, why);
	if (d->broken)
		return;
	d->broken = true;
	if (d->transport_ops && d->transport_ops->needs_reset)
		d->transport_ops->needs_reset(d->transport);
}
