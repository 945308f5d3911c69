/* The machine's network interface, by the classic ioctls. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/machine.h"
#include "base/cleanup.h"
#include "base/log.h"

static void set_name(struct ifreq *r, const char *name)
{
	memset(r, 0, sizeof(*r));
	memcpy(r->ifr_name, name, strnlen(name, IFNAMSIZ - 1));
}

static int set_up(int s, const char *name)
{
	struct ifreq r;

	set_name(&r, name);
	if (ioctl(s, SIOCGIFFLAGS, &r) < 0)
		return -errno;
	r.ifr_flags = (short)(r.ifr_flags | IFF_UP | IFF_RUNNING);
	return ioctl(s, SIOCSIFFLAGS, &r) < 0 ? -errno : 0;
}

int net_lo_up(void)
{
	cleanup_close int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	return s < 0 ? -errno : set_up(s, "lo");
}

/* The first Ethernet interface, or the one with that address. */
static int find_interface(int s, const uint8_t *mac, char name[IFNAMSIZ])
{
	DIR *d = opendir("/sys/class/net");
	struct dirent *e;
	int best = 0, r = -ENODEV;

	if (!d)
		return -errno;
	while ((e = readdir(d))) {
		struct ifreq q, i;

		if (e->d_name[0] == '.' || strlen(e->d_name) >= IFNAMSIZ)
			continue;
		set_name(&q, e->d_name);
		set_name(&i, e->d_name);
		if (ioctl(s, SIOCGIFHWADDR, &q) < 0 || q.ifr_hwaddr.sa_family != ARPHRD_ETHER ||
		    ioctl(s, SIOCGIFINDEX, &i) < 0)
			continue;
		if (mac ? memcmp(q.ifr_hwaddr.sa_data, mac, 6) != 0 : r == 0 && i.ifr_ifindex > best)
			continue;
		best = i.ifr_ifindex;
		memcpy(name, e->d_name, strlen(e->d_name) + 1);
		r = 0;
	}
	closedir(d);
	return r;
}

static void ipv6_setting(const char *name, const char *key, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/%s", name, key);
	/* A kernel without IPv6 has none of these. */
	(void)write_text(path, value);
}

static struct sockaddr_in in_addr_of(const uint8_t a[4])
{
	struct sockaddr_in sin = { .sin_family = AF_INET };

	memcpy(&sin.sin_addr, a, 4);
	return sin;
}

static int set_address(int s, const char *name, int what, const uint8_t a[4])
{
	struct sockaddr_in sin = in_addr_of(a);
	struct ifreq r;

	set_name(&r, name);
	memcpy(&r.ifr_addr, &sin, sizeof(sin));
	return ioctl(s, what, &r) < 0 ? -errno : 0;
}

static int add_route(int s, const char *name, const uint8_t dst[4], const uint8_t mask[4], const uint8_t *gateway)
{
	struct rtentry rt = { .rt_flags = RTF_UP, .rt_dev = (char *)name };
	struct sockaddr_in d = in_addr_of(dst), m = in_addr_of(mask), g;

	memcpy(&rt.rt_dst, &d, sizeof(d));
	memcpy(&rt.rt_genmask, &m, sizeof(m));
	if (gateway) {
		g = in_addr_of(gateway);
		memcpy(&rt.rt_gateway, &g, sizeof(g));
		rt.rt_flags |= RTF_GATEWAY;
	}
	return ioctl(s, SIOCADDRT, &rt) < 0 && errno != EEXIST ? -errno : 0;
}

static int set_ipv4(int s, const char *name, const struct wslx_agent_config *c)
{
	static const uint8_t any[4] = { 0 }, all[4] = { 255, 255, 255, 255 };
	uint32_t bits = c->ipv4_prefix ? ~0u << (32 - c->ipv4_prefix) : 0, gw, addr;
	uint8_t mask[4] = { (uint8_t)(bits >> 24), (uint8_t)(bits >> 16), (uint8_t)(bits >> 8), (uint8_t)bits };
	int r;

	r = set_address(s, name, SIOCSIFADDR, c->ipv4);
	if (r == 0)
		r = set_address(s, name, SIOCSIFNETMASK, mask);
	if (r < 0 || !memcmp(c->ipv4_gateway, any, 4))
		return r;
	memcpy(&gw, c->ipv4_gateway, 4);
	memcpy(&addr, c->ipv4, 4);
	/* A gateway outside the prefix is on the link all the same. */
	if ((ntohl(gw) & bits) != (ntohl(addr) & bits))
		r = add_route(s, name, c->ipv4_gateway, all, NULL);
	return r < 0 ? r : add_route(s, name, any, any, c->ipv4_gateway);
}

/* Whom net_apply() set last. */
static char gateway_name[IFNAMSIZ];
static uint8_t gateway_addr[4];

static void tell_neighbour_table(int s, uint16_t type, uint16_t flags, uint8_t neighbour_flags)
{
	struct {
		struct nlmsghdr h;
		struct ndmsg n;
		struct rtattr a;
		uint8_t addr[4];
	} m = {
		.h = { .nlmsg_len = sizeof(m), .nlmsg_type = type, .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags) },
		.n = { .ndm_family = AF_INET,
		       .ndm_ifindex = (int)if_nametoindex(gateway_name),
		       .ndm_flags = neighbour_flags },
		.a = { .rta_len = RTA_LENGTH(4), .rta_type = NDA_DST },
	};

	memcpy(m.addr, gateway_addr, 4);
	if (send(s, &m, sizeof(m), 0) < 0)
		log_debug("net: cannot greet the gateway: %s", strerror(errno));
}

/*
 * Has the kernel ask for the gateway's hardware address now.  passt learns ours
 * from the first frame it sees, and until then sends to the broadcast address,
 * where TCP does not listen: a connection to a published port that came before
 * any frame of ours timed out.  What is known already is forgotten first, or
 * there would be nothing to ask.
 */
void net_greet(void)
{
	cleanup_close int s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (s < 0 || !gateway_name[0])
		return;
	tell_neighbour_table(s, RTM_DELNEIGH, 0, 0);
	tell_neighbour_table(s, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, NTF_USE);
}

int net_apply(const struct wslx_agent_config *c, char *text, size_t size)
{
	cleanup_close int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	char name[IFNAMSIZ] = "";
	struct ifreq q;
	int r = s < 0 ? -errno : find_interface(s, c->has_mac ? c->mac : NULL, name);

	if (r < 0) {
		snprintf(text, size, "there is no network interface to configure: %s", strerror(-r));
		return r;
	}
	/* Before it is up: router solicitation starts at once. */
	ipv6_setting(name, "disable_ipv6", c->ipv6_ra ? "0" : "1");
	/* 2: also when a distro turns forwarding on for its containers. */
	ipv6_setting(name, "accept_ra", c->ipv6_ra ? "2" : "0");
	if (c->mtu) {
		set_name(&q, name);
		q.ifr_mtu = (int)c->mtu;
		r = ioctl(s, SIOCSIFMTU, &q) < 0 ? -errno : 0;
	}
	if (r == 0)
		r = set_up(s, name);
	if (r == 0 && c->has_ipv4)
		r = set_ipv4(s, name, c);
	if (r == 0 && c->has_ipv4) {
		memcpy(gateway_name, name, sizeof(gateway_name));
		memcpy(gateway_addr, c->ipv4_gateway, sizeof(gateway_addr));
		net_greet();
	}
	if (r < 0)
		snprintf(text, size, "network interface %s: %s", name, strerror(-r));
	return r;
}
