/* SPDX-License-Identifier: Apache-2.0
 *
 * test_address.c: SessiondListen and SessiondAllow as written, and who is let
 * in: each mask at its exact bit, IPv4 peers of a dual-stack socket, this host
 * by every name it has. A socket's own address is made with IP_FREEBIND, so
 * that no interface is needed.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include <apr_general.h>
#include <apr_strings.h>

#include "mod_sessiond/address.h"
#include "store_fixture.h"

#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif

static apr_pool_t *pool;

/* ---- SessiondListen ---- */

static void listens_tcp(const char *text, const char *host, unsigned port)
{
    sd_endpoint_t e;
    const char *wrong = sd_endpoint_parse(&e, text, NULL, pool);

    if (wrong)
        fail_msg("%s", wrong);
    assert_string_equal(e.text, text);
    assert_null(e.path);
    if (host)
        assert_string_equal(e.host, host);
    else
        assert_null(e.host);
    assert_int_equal(e.port, port);
}

static void good_endpoints(void **state)
{
    (void)state;
    listens_tcp("1042", NULL, 1042);
    listens_tcp("1", NULL, 1);
    listens_tcp("65535", NULL, 65535);
    listens_tcp("*:1042", NULL, 1042);
    listens_tcp("127.0.0.1:1042", "127.0.0.1", 1042);
    listens_tcp("0.0.0.0:80", "0.0.0.0", 80);
    listens_tcp("localhost:1042", "localhost", 1042);
    listens_tcp("[::1]:1042", "::1", 1042);
    listens_tcp("[::]:65535", "::", 65535);
    listens_tcp("[2001:db8::1]:1", "2001:db8::1", 1);
    listens_tcp("[fe80::1%eth0]:1042", "fe80::1%eth0", 1042);
}

static void good_unix_endpoints(void **state)
{
    static const struct {
        const char *mode;
        mode_t bits;
    } modes[] = { { NULL, 0660 }, { "0660", 0660 }, { "660", 0660 }, { "0", 0 }, { "0777", 0777 } };
    sd_endpoint_t e;
    size_t i;

    (void)state;
    for (i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        assert_null(sd_endpoint_parse(&e, "unix:/run/sessiond.sock", modes[i].mode, pool));
        assert_string_equal(e.path, "/run/sessiond.sock");
        assert_string_equal(e.text, "unix:/run/sessiond.sock");
        assert_int_equal(e.mode, modes[i].bits);
        assert_null(e.host);
        assert_int_equal(e.port, 0);
    }
    /* a colon in the path is no port */
    assert_null(sd_endpoint_parse(&e, "unix:/run/a:80", NULL, pool));
    assert_string_equal(e.path, "/run/a:80");
}

/* The longest path is what the kernel takes, with its NUL. */
static void length_of_a_unix_path(void **state)
{
    const size_t most = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
    char text[200] = "unix:/";
    sd_endpoint_t e;

    (void)state;
    memset(text + 6, 'p', most - 1);
    assert_null(sd_endpoint_parse(&e, text, NULL, pool));
    assert_int_equal(strlen(e.path), most);
    text[6 + most - 1] = 'p';
    assert_string_equal(sd_endpoint_parse(&e, text, NULL, pool),
                        apr_psprintf(pool, "SessiondListen %s: the path is %d bytes long; a Unix "
                                     "socket's path has at most %d", text, (int)most + 1,
                                     (int)most));
}

static void refuses(const char *text, const char *mode, const char *sentence)
{
    sd_endpoint_t e;
    const char *wrong = sd_endpoint_parse(&e, text, mode, pool);

    if (!wrong)
        fail_msg("'%s' was taken", text);
    assert_string_equal(wrong, sentence);
}

#define NO_PORT(text, port)                                                                   \
    refuses(text, NULL, "SessiondListen " text ": '" port "' is not a port; a port is 1 to "  \
                        "65535, sharedance's clients use 1042")
#define NO_PORT_AFTER(text, right) \
    refuses(text, NULL, "SessiondListen " text ": a port is missing after the address, as in " \
                        right)
#define NO_SCHEME(scheme, rest)                                                                \
    refuses(scheme rest, NULL, "SessiondListen " scheme rest ": write it without '" scheme     \
                               "', as in 127.0.0.1:1042, or unix:/path")
#define NO_BRACKETS(text) \
    refuses(text, NULL, "SessiondListen " text ": write an IPv6 address in brackets, as in " \
                        "[::1]:1042")
#define NO_ADDRESS(text) \
    refuses(text, NULL, "SessiondListen " text ": the address is empty; leave out the colon to " \
                        "listen on every address")
#define NO_MODE(mode) \
    refuses("unix:/run/a", mode, "SessiondListen unix:/run/a: '" mode "' is not a mode; give " \
                                 "octal permissions from 0 to 0777, such as 0660")
#define NO_PATH(text) \
    refuses(text, NULL, "SessiondListen " text ": the path of a Unix socket must be absolute, " \
                        "as in unix:/run/sessiond.sock")

static void bad_endpoints(void **state)
{
    (void)state;
    NO_PORT("", "");
    NO_PORT("0", "0");
    NO_PORT("65536", "65536");
    NO_PORT("70000", "70000");
    NO_PORT(" 1042", " 1042"); /* strtol would take these */
    NO_PORT("127.0.0.1: +5", " +5");
    NO_PORT("4294968338", "4294968338"); /* 1042, if it were cut to 32 bits */
    NO_PORT("99999999999999999999", "99999999999999999999");
    NO_PORT("-5", "-5");
    NO_PORT("+5", "+5");
    NO_PORT("1042x", "1042x");
    NO_PORT("0x50", "0x50");
    NO_PORT("http", "http");
    NO_PORT("127.0.0", "127.0.0");
    NO_PORT("127.0.0.1:", "");
    NO_PORT("127.0.0.1:0", "0");
    NO_PORT("127.0.0.1:70000", "70000");
    NO_PORT("127.0.0.1:1042 ", "1042 ");
    NO_PORT("[::1]:", "");
    NO_PORT("[::1]:0", "0");
    NO_PORT_AFTER("[::1]", "[::1]:1042");
    NO_PORT_AFTER("[::1", "[::1]:1042");
    NO_PORT_AFTER("[::1]1042", "[::1]:1042");
    NO_PORT_AFTER("127.0.0.1", "127.0.0.1:1042");
    NO_SCHEME("tcp://", "127.0.0.1:1042");
    NO_SCHEME("tcp://", "[::1]:1042");
    NO_SCHEME("tcp://", "127.0.0.1");
    NO_SCHEME("://", "");
    NO_BRACKETS("::1");
    NO_BRACKETS("::1:1042");
    NO_BRACKETS("2001:db8::1:1042");
    NO_ADDRESS(":1042");
    NO_ADDRESS("[]:1042");
    NO_PATH("unix:");
    NO_PATH("unix:run/a");
    NO_PATH("unix:./a");
    NO_MODE("");
    NO_MODE("1000");
    NO_MODE("+660");
    NO_MODE(" 660");
    NO_MODE("0778");
    NO_MODE("rw");
    NO_MODE("-1");
    NO_MODE("660 ");
    refuses("1042", "0660", "SessiondListen 1042: the mode '0660' is for unix:/path only");
    refuses("127.0.0.1:1042", "0", "SessiondListen 127.0.0.1:1042: the mode '0' is for unix:/path "
                                   "only");
}

static const char *check(const char *text)
{
    sd_endpoint_t e;

    assert_null(sd_endpoint_parse(&e, text, NULL, pool));
    return sd_endpoint_check(&e, pool);
}

static struct sockaddr_storage peer_of(const char *text)
{
    struct sockaddr_storage peer;

    memset(&peer, 0, sizeof peer);
    if (strchr(text, ':')) {
        peer.ss_family = AF_INET6;
        assert_int_equal(
            inet_pton(AF_INET6, text, &((struct sockaddr_in6 *)(void *)&peer)->sin6_addr), 1);
    }
    else {
        peer.ss_family = AF_INET;
        assert_int_equal(
            inet_pton(AF_INET, text, &((struct sockaddr_in *)(void *)&peer)->sin_addr), 1);
    }
    return peer;
}

static bool can_bind(const char *text)
{
    struct sockaddr_storage at = peer_of(text);
    int fd = socket(at.ss_family, SOCK_STREAM, 0);
    bool can = fd >= 0
               && bind(fd, (struct sockaddr *)(void *)&at,
                       at.ss_family == AF_INET ? sizeof(struct sockaddr_in)
                                               : sizeof(struct sockaddr_in6))
                      == 0;

    if (fd >= 0)
        close(fd);
    return can;
}

static bool has_ipv6(void)
{
    return can_bind("::1");
}

static void addresses_of_this_host(void **state)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    (void)state;
    assert_null(check("127.0.0.1:1042"));
    assert_null(check("0.0.0.0:1042"));
    assert_null(check("1042"));
    assert_null(check("*:1"));
    assert_null(check("unix:/no/such/directory/a"));
    if (has_ipv6()) {
        assert_null(check("[::1]:1042"));
        assert_null(check("[::]:1042"));
    }
    /* TEST-NET-1 and the documentation prefix are nobody's; but a host can be
     * told to let programs bind to any address */
    if (!can_bind("192.0.2.1"))
        assert_string_equal(check("192.0.2.1:1042"),
                            "SessiondListen 192.0.2.1:1042: 192.0.2.1 is not an address of this "
                            "host; use one that 'ip address' lists, or the port alone to listen on "
                            "every one");
    if (has_ipv6() && !can_bind("2001:db8::1"))
        assert_string_equal(check("[2001:db8::1]:1042"),
                            "SessiondListen [2001:db8::1]:1042: 2001:db8::1 is not an address of "
                            "this host; use one that 'ip address' lists, or the port alone to "
                            "listen on every one");
    /* a port in use does not matter: it may be we who use it */
    assert_int_equal(bind(fd, (struct sockaddr *)(void *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)(void *)&at, &size), 0);
    assert_null(check(apr_psprintf(pool, "127.0.0.1:%u", (unsigned)ntohs(at.sin_port))));
    close(fd);
}

/* ---- SessiondAllow ---- */

static bool lets_in(const sd_allow_t *allow, const char *text)
{
    struct sockaddr_storage peer = peer_of(text);

    return sd_allow_peer(allow, &peer, -1);
}

static void add(sd_allow_t *allow, const char *text)
{
    const char *wrong = sd_allow_add(allow, text, pool);

    if (wrong)
        fail_msg("%s", wrong);
}

static void closed_by_default(void **state)
{
    static const char *const own[] = { "127.0.0.1", "127.0.0.2", "127.255.255.254", "::1",
                                       "::ffff:127.0.0.1", "::ffff:127.1.2.3" };
    static const char *const others[] = { "10.0.0.1",  "126.255.255.255", "128.0.0.1", "0.0.0.0",
                                          "192.0.2.1", "255.255.255.255", "::",        "::2",
                                          "::127.0.0.1", "::ffff:10.0.0.1", "::fffe:127.0.0.1",
                                          "2001:db8::1", "fe80::1", "7f00::1", "100::" };
    sd_allow_t none = { NULL, false };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof own / sizeof own[0]; i++)
        assert_true(lets_in(&none, own[i]));
    for (i = 0; i < sizeof others / sizeof others[0]; i++)
        if (lets_in(&none, others[i]))
            fail_msg("%s was let in", others[i]);
}

/* For every number of bits: the network's last bit counts, the next does not. */
static void every_number_of_bits(void **state)
{
    static const struct {
        int family;
        const char *address;
        unsigned bits;
    } families[] = { { AF_INET, "198.51.100.77", 32 },
                     { AF_INET6, "2001:db8:1234:5678:9abc:def0:1357:2468", 128 } };
    size_t f;
    unsigned bits, flip;

    (void)state;
    for (f = 0; f < 2; f++)
        for (bits = 1; bits <= families[f].bits; bits++) {
            sd_allow_t allow = { NULL, false };

            add(&allow, apr_psprintf(pool, "%s/%u", families[f].address, bits));
            assert_true(lets_in(&allow, families[f].address));
            for (flip = 0; flip < families[f].bits; flip++) {
                unsigned char bytes[16];
                char text[INET6_ADDRSTRLEN];

                assert_int_equal(inet_pton(families[f].family, families[f].address, bytes), 1);
                bytes[flip / 8] ^= (unsigned char)(0x80u >> flip % 8);
                inet_ntop(families[f].family, bytes, text, sizeof text);
                if (lets_in(&allow, text) != (flip >= bits))
                    fail_msg("%s/%u and %s", families[f].address, bits, text);
            }
        }
}

static void one_address_and_masks(void **state)
{
    sd_allow_t allow = { NULL, false };

    (void)state;
    add(&allow, "192.0.2.5");
    assert_true(lets_in(&allow, "192.0.2.5"));
    assert_false(lets_in(&allow, "192.0.2.4"));
    assert_false(lets_in(&allow, "192.0.2.6"));
    add(&allow, "198.51.100.0/255.255.255.128");
    assert_true(lets_in(&allow, "198.51.100.127"));
    assert_false(lets_in(&allow, "198.51.100.128"));
    add(&allow, "2001:db8::7");
    assert_true(lets_in(&allow, "2001:db8::7"));
    assert_false(lets_in(&allow, "2001:db8::8"));
    /* all of them together, and this host still */
    assert_true(lets_in(&allow, "192.0.2.5"));
    assert_true(lets_in(&allow, "198.51.100.1"));
    assert_true(lets_in(&allow, "127.0.0.1"));
    assert_true(lets_in(&allow, "::1"));
    assert_false(lets_in(&allow, "203.0.113.1"));
}

/* A dual-stack socket shows IPv4 peers as IPv6; only such are taken as IPv4. */
static void ipv4_in_ipv6(void **state)
{
    sd_allow_t v4 = { NULL, false }, v6 = { NULL, false };

    (void)state;
    add(&v4, "192.0.2.0/24");
    assert_true(lets_in(&v4, "::ffff:192.0.2.1"));
    assert_true(lets_in(&v4, "::ffff:192.0.2.255"));
    assert_false(lets_in(&v4, "::ffff:192.0.3.0"));
    assert_false(lets_in(&v4, "::192.0.2.1"));
    assert_false(lets_in(&v4, "2001:db8::c000:201"));
    /* its 16 bytes begin with zeros, as those of ::1 do */
    add(&v6, "::2/127");
    assert_true(lets_in(&v6, "::3"));
    assert_false(lets_in(&v6, "::ffff:192.0.2.1"));
    assert_false(lets_in(&v6, "0.0.0.2"));
}

static void all(void **state)
{
    static const char *const words[] = { "all", "ALL", "All" };
    size_t i;

    (void)state;
    for (i = 0; i < 3; i++) {
        sd_allow_t allow = { NULL, false };

        add(&allow, words[i]);
        assert_true(allow.all);
        assert_true(lets_in(&allow, "192.0.2.1"));
        assert_true(lets_in(&allow, "2001:db8::1"));
        assert_true(lets_in(&allow, "::ffff:192.0.2.1"));
    }
}

static void bad_subnets(void **state)
{
    static const char *const not_addresses[]
        = { "",       "/24",       "10.0.0.256", "1.2.3.4.5", "example.org", "localhost", "[::1]",
            "2001:::", "10.0.0.1 ", " 10.0.0.1",  "everybody", "allow",       "all,",      "*",
            /* a forgotten part must not open a network */
            "10", "192.168", "10.0.0", "10/8" };
    static const struct {
        const char *address, *mask;
    } not_masks[] = { { "10.0.0.0", "33" },  { "10.0.0.0", "-1" },  { "10.0.0.0", "" },
                      { "10.0.0.0", "x" },   { "10.0.0.0", "8/9" }, { "10.0.0.0", "8 " },
                      { "10.0.0.0", "128" }, { "10.0.0.0", "4294967304" }, { "::1", "129" },
                      { "::1", "-1" },       { "::1", "" },         { "::1", "255.255.0.0" },
                      { "10.0.0.0", "0" },   { "10.0.0.0", "+8" },  { "10.0.0.0", " 8" },
                      { "10.0.0.0", "255.0.255.0" }, { "10.0.0.0", "0.0.0.0" }, { "::1", "0" } };
    sd_allow_t allow = { NULL, false };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof not_addresses / sizeof not_addresses[0]; i++) {
        const char *wrong = sd_allow_add(&allow, not_addresses[i], pool);

        if (!wrong)
            fail_msg("'%s' was taken", not_addresses[i]);
        assert_string_equal(wrong,
                            apr_psprintf(pool, "SessiondAllow %s: not an address; give a whole addr, "
                                         "addr/bits or 'all', as in 192.168.0.0/24 (host names are "
                                         "not looked up)", not_addresses[i]));
    }
    for (i = 0; i < sizeof not_masks / sizeof not_masks[0]; i++) {
        const char *text = apr_pstrcat(pool, not_masks[i].address, "/", not_masks[i].mask, NULL);
        const char *wrong = sd_allow_add(&allow, text, pool);

        if (!wrong)
            fail_msg("'%s' was taken", text);
        assert_ptr_equal(strstr(wrong, apr_psprintf(pool, "SessiondAllow %s: '%s' is no mask; give "
                                                    "the number of bits, ", text,
                                                    not_masks[i].mask)),
                         wrong);
        assert_non_null(strstr(wrong, " 1 to 32 for IPv4 and "));
        assert_non_null(strstr(wrong, " 1 to 128 for IPv6"));
    }
    assert_non_null(strstr(sd_allow_add(&allow, "::ffff:10.0.0.1", pool), "without ::ffff:"));
    assert_false(allow.all);
    assert_null(allow.subnets);
}

/* ---- this host by the address that was connected to ---- */

static int bound_to(int family, const char *text)
{
    struct sockaddr_storage at = peer_of(text);
    int fd = socket(family, SOCK_STREAM, 0), yes = 1, no = 0;

    assert_true(fd >= 0);
    if (family == AF_INET)
        (void)setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &yes, sizeof yes);
    else {
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_FREEBIND, &yes, sizeof yes);
        (void)setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &yes, sizeof yes);
    }
    if (bind(fd, (struct sockaddr *)(void *)&at,
             family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6))
        == 0)
        return fd;
    close(fd);
    return -1;
}

static bool lets_in_at(int fd, const char *text)
{
    struct sockaddr_storage peer = peer_of(text);
    sd_allow_t none = { NULL, false };

    return sd_allow_peer(&none, &peer, fd);
}

static void own_address(void **state)
{
    int fd = bound_to(AF_INET, "192.0.2.7");

    (void)state;
    assert_true(fd >= 0);
    assert_true(lets_in_at(fd, "192.0.2.7"));
    assert_true(lets_in_at(fd, "::ffff:192.0.2.7"));
    assert_false(lets_in_at(fd, "192.0.2.8"));
    assert_false(lets_in_at(fd, "193.0.2.7"));
    close(fd);
    if (!has_ipv6())
        return;
    fd = bound_to(AF_INET6, "::ffff:192.0.2.7");
    if (fd >= 0) {
        assert_true(lets_in_at(fd, "192.0.2.7"));
        assert_true(lets_in_at(fd, "::ffff:192.0.2.7"));
        assert_false(lets_in_at(fd, "::ffff:192.0.2.8"));
        close(fd);
    }
    fd = bound_to(AF_INET6, "2001:db8::7");
    if (fd >= 0) {
        assert_true(lets_in_at(fd, "2001:db8::7"));
        assert_false(lets_in_at(fd, "2001:db8::8"));
        assert_false(lets_in_at(fd, "192.0.2.7"));
        assert_false(lets_in_at(fd, "32.1.13.184")); /* its first four bytes */
        close(fd);
    }
}

/* ---- for messages ---- */

static void printed_for_messages(void **state)
{
    static const char *const texts[][2] = { { "192.0.2.1", "192.0.2.1" },
                                            { "::ffff:192.0.2.1", "192.0.2.1" },
                                            { "2001:db8::1", "2001:db8::1" },
                                            { "::1", "::1" } };
    struct sockaddr_storage peer;
    char out[64];
    size_t i;

    (void)state;
    for (i = 0; i < 4; i++) {
        peer = peer_of(texts[i][0]);
        sd_address_print(&peer, out, sizeof out);
        assert_string_equal(out, texts[i][1]);
    }
    memset(&peer, 0, sizeof peer);
    peer.ss_family = AF_UNIX;
    sd_address_print(&peer, out, sizeof out);
    assert_string_equal(out, "a Unix socket");
    /* a buffer too small is not written beyond */
    memset(out, '#', sizeof out);
    peer = peer_of("192.0.2.111");
    sd_address_print(&peer, out, 5);
    assert_int_equal(out[5], '#');
    assert_non_null(memchr(out, '\0', 5));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_endpoints),        cmocka_unit_test(good_unix_endpoints),
        cmocka_unit_test(length_of_a_unix_path), cmocka_unit_test(bad_endpoints),
        cmocka_unit_test(addresses_of_this_host), cmocka_unit_test(closed_by_default),
        cmocka_unit_test(every_number_of_bits),  cmocka_unit_test(one_address_and_masks),
        cmocka_unit_test(ipv4_in_ipv6),          cmocka_unit_test(all),
        cmocka_unit_test(bad_subnets),           cmocka_unit_test(own_address),
        cmocka_unit_test(printed_for_messages),
    };
    int failed;

    apr_initialize();
    apr_pool_create(&pool, NULL);
    failed = cmocka_run_group_tests_name("address", tests, NULL, NULL);
    apr_pool_destroy(pool);
    apr_terminate();
    return failed;
}
