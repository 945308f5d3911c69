/* A machine's supervisor and a region: PortalSync, doorbells, a window that cannot be changed. */
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wslx/portal.h>

#include "base/loop.h"
#include "machine.h"
#include "vmm/supervisor/console.h"
#include "vmm/supervisor/open.h"
#include "vmm/supervisor/run.h"

struct broker {
	portal_host *h;
	pthread_t thread;
	atomic_bool stop;
};

static void *serve_broker(void *arg)
{
	struct broker *b = arg;

	while (!b->stop)
		if (portal_host_dispatch(b->h, 20) < 0)
			break;
	return NULL;
}

/* The thread only after the fork that starts the machine. */
static void broker_new(struct broker *b, const char *path)
{
	assert_int_equal(portal_host_create(&(struct portal_host_params) { .size = sizeof(struct portal_host_params),
									   .name = "reg",
									   .path = path },
					    &b->h),
			 0);
	b->stop = false;
}

static void broker_run(struct broker *b)
{
	assert_int_equal(pthread_create(&b->thread, NULL, serve_broker, b), 0);
}

static void broker_end(struct broker *b)
{
	b->stop = true;
	pthread_join(b->thread, NULL);
	portal_host_destroy(b->h);
}

static void test_portal_sync_without_window(void **state)
{
	struct machine m;

	machine_setup(&m, "normal");
	machine_start(&m);
	expect_ready(&m);
	call_fails(&m, "PortalSync", "{}", "io.wslx.Machine.NotSupported");
	call_ok(&m, "Terminate", "{\"force\":true}");
	assert_int_equal(wait_end(&m), 0);
	machine_remove(&m);
}

static void expect_grant(struct machine *m, const char *want)
{
	int64_t end = wslx_now_ms() + 30000;
	char got[64];

	do {
		json_t *j = control_call(m, "PortalSync", "{}");
		json_t *list = json_object_get(json_object_get(j, "parameters"), "grants");

		assert_int_equal(json_array_size(list), 1);
		snprintf(got, sizeof(got), "%s", json_text(json_array_get(list, 0), "state"));
		json_decref(j);
	} while (strcmp(got, want) != 0 && wslx_now_ms() < end);
	assert_string_equal(got, want);
}

static void test_portal(void **state)
{
	char sock[96], params[256], warning[128] = "";
	static char nowhere[] = "/nonexistent/reg.sock";
	struct broker b;
	struct machine m;
	json_t *j;

	machine_setup(&m, "normal");
	snprintf(sock, sizeof(sock), "%s/reg.sock", m.dir);
	m.c.portal = (struct wslx_portal_config) {
		.window = 64 * WSLX_MIB,
		.grants = { { .region = "reg", .as = "here", .socket = nowhere, .segments = 4 } },
		.n_grants = 1,
	};
	machine_start(&m);
	broker_new(&b, sock);
	broker_run(&b);
	expect_ready(&m);
	j = control_call(&m, "Info", "{}");
	snprintf(warning, sizeof(warning), "%s",
		 json_string_value(json_array_get(json_object_get(json_object_get(j, "parameters"), "warnings"), 0)));
	json_decref(j);
	assert_string_equal(warning, "portal region 'reg': it is not there; `wslx portal create reg`");
	expect_grant(&m, "waiting");
	call_fails(&m, "PortalSync", "{\"region\":\"reg\"}", "org.varlink.service.InvalidParameter");
	call_fails(&m, "PortalSync", "{\"region\":\"a/b\",\"socket\":\"/x\",\"segments\":1,\"access\":\"rw\"}",
		   "org.varlink.service.InvalidParameter");
	call_fails(&m, "PortalSync", "{\"region\":\"reg\",\"socket\":\"x\",\"segments\":1,\"access\":\"rw\"}",
		   "org.varlink.service.InvalidParameter");
	call_fails(&m, "PortalSync", "{\"region\":\"reg\",\"socket\":\"/x\",\"segments\":-1,\"access\":\"rw\"}",
		   "org.varlink.service.InvalidParameter");
	call_fails(&m, "PortalSync", "{\"region\":\"reg\",\"socket\":\"/x\",\"segments\":1,\"access\":\"wr\"}",
		   "org.varlink.service.InvalidParameter");
	snprintf(params, sizeof(params),
		 "{\"region\":\"reg\",\"as\":\"here\",\"socket\":\"%s\",\"segments\":4,\"access\":\"rw\"}", sock);
	call_ok(&m, "PortalSync", params);
	expect_grant(&m, "granted");
	assert_int_equal(portal_host_revoke(b.h, 1, 30000 * INT64_C(1000000)), 0);
	expect_grant(&m, "revoked");
	call_ok(&m, "PortalSync", params);
	expect_grant(&m, "granted");
	call_ok(&m, "Terminate", "{\"force\":true}");
	assert_int_equal(wait_end(&m), 0);
	broker_end(&b);
	machine_remove(&m);
}

/* From the first boot on, with the doorbell, and over a reboot. */
static void test_portal_doorbell(void **state)
{
	char sock[96];
	struct broker b;
	struct machine m;

	machine_setup(&m, "doorbell");
	snprintf(sock, sizeof(sock), "%s/reg.sock", m.dir);
	m.c.portal = (struct wslx_portal_config) {
		.window = 64 * WSLX_MIB,
		.grants = { { .region = "reg", .as = "here", .socket = sock, .segments = 4 } },
		.n_grants = 1,
	};
	broker_new(&b, sock);
	machine_start(&m);
	broker_run(&b);
	expect_ready(&m);
	expect_grant(&m, "granted");
	wait_console(&m, "the doorbell rang");
	call_ok(&m, "Terminate", "{\"force\":true}");
	assert_int_equal(wait_end(&m), 0);
	broker_end(&b);
	machine_remove(&m);
}

/* A window that cannot be changed is the machine's end: what was taken away might still be there. */
static void test_portal_that_cannot_be_mapped(void **state)
{
	char sock[96];
	struct broker b;
	struct machine m;

	machine_setup(&m, "bad-window");
	snprintf(sock, sizeof(sock), "%s/reg.sock", m.dir);
	m.c.portal = (struct wslx_portal_config) {
		.window = 64 * WSLX_MIB,
		.grants = { { .region = "reg", .as = "here", .socket = sock, .segments = 4 } },
		.n_grants = 1,
	};
	broker_new(&b, sock);
	machine_start(&m);
	broker_run(&b);
	assert_int_equal(wait_end(&m), 1);
	broker_end(&b);
	machine_remove(&m);
}

static unsigned open_fds(void)
{
	unsigned n = 0;
	DIR *d = opendir("/proc/self/fd");

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* A run whose processes cannot be started leaves nothing open, and nothing watched. */
static void test_portal_run_that_does_not_start(void **state)
{
	static const struct wslx_run_events events;
	struct wslx_run_params p = { .net_fd = -1, .self_path = "/nonexistent", .events = &events };
	struct wslx_run *run = NULL;
	struct wslx_files f;
	struct machine m;
	unsigned before;

	machine_setup(&m, "normal");
	m.c.engine = WSLX_ENGINE_TCG;
	m.c.portal.window = 64 * WSLX_MIB;
	wslx_files_init(&f);
	assert_int_equal(wslx_files_open(&f, &m.c, NULL, NULL), 0);
	assert_int_equal(wslx_loop_new(&p.loop), 0);
	p.window_fd = memfd_create("test", MFD_CLOEXEC);
	assert_true(p.window_fd >= 0);
	p.config = &m.c;
	p.files = &f;
	before = open_fds();
	assert_int_equal(wslx_conlog_new(p.loop, m.state, NULL, NULL, &p.console, NULL), 0);
	assert_true(wslx_run_start(&p, &run, NULL) < 0);
	wslx_conlog_free(p.console);
	assert_int_equal(open_fds(), before);
	assert_int_equal(wslx_loop_once(p.loop, 0), 0);
	close(p.window_fd);
	wslx_loop_free(p.loop);
	wslx_files_close(&f);
	machine_remove(&m);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_portal_sync_without_window),
		cmocka_unit_test(test_portal),
		cmocka_unit_test(test_portal_doorbell),
		cmocka_unit_test(test_portal_that_cannot_be_mapped),
		cmocka_unit_test(test_portal_run_that_does_not_start),
	};

	machine_main(argc, argv);
	return cmocka_run_group_tests_name("supervisor-portal", tests, NULL, NULL);
}
