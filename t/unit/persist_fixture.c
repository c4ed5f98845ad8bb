/* SPDX-License-Identifier: Apache-2.0
 *
 * persist_fixture.c: see its header. Directories lie where TMPDIR says, since a
 * test that syncs a thousand times wants a file system that is quick at it.
 */
#include "persist_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void dir_make(char dir[64])
{
    const char *tmp = getenv("TMPDIR");

    if (!tmp || strlen(tmp) > 30)
        tmp = "/tmp";
    snprintf(dir, 64, "%s/sessiond-persist-XXXXXX", tmp);
    assert_non_null(mkdtemp(dir));
}

void dir_remove(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    char path[512];

    if (!d)
        return;
    while ((e = readdir(d)) != NULL) {
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (e->d_name[0] != '.')
            (void)unlink(path);
    }
    closedir(d);
    (void)rmdir(dir);
}

bytes_t file_read(const char *path)
{
    bytes_t b = { NULL, 0 };
    struct stat st;
    int fd = open(path, O_RDONLY);

    if (fd < 0 || fstat(fd, &st) != 0)
        fail_msg("%s: %s", path, strerror(errno));
    b.len = (size_t)st.st_size;
    b.at = malloc(b.len + 1);
    assert_non_null(b.at);
    assert_int_equal(read(fd, b.at, b.len), (ssize_t)b.len);
    close(fd);
    return b;
}

void file_write(const char *path, const void *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const unsigned char *at = bytes;

    if (fd < 0)
        fail_msg("%s: %s", path, strerror(errno));
    while (len > 0) {
        ssize_t n = write(fd, at, len);

        assert_true(n > 0);
        at += n;
        len -= (size_t)n;
    }
    close(fd);
}

void desk_path(const desk_t *d, const char *name, char path[128])
{
    snprintf(path, 128, "%s/%s", d->dir, name);
}

void desk_store_anew(desk_t *d, uint64_t size)
{
    uint64_t now = d->f.now;

    if (d->f.store)
        fixture_detach(&d->f);
    if (d->f.map)
        fixture_unmap(&d->f);
    fixture_map(&d->f, size, 8);
    fixture_format(&d->f);
    d->f.writes_behind = true;
    fixture_attach(&d->f, 2, false);
    d->f.now = now;
}

void desk_journal_open(desk_t *d, sd_persist_status_t expected)
{
    sd_journal_options_t o;
    sd_persist_status_t status;

    memset(&o, 0, sizeof o);
    o.create = true;
    o.no_sync = d->no_sync;
    o.same_store = d->same_store;
    o.slack_bytes = d->slack_bytes;
    o.wall_ms = WALL + d->f.now;
    memset(o.id, 0x1d, sizeof o.id);
    status = sd_journal_open(&d->journal, d->dir, &o, d->reason);
    if (status != expected)
        fail_msg("open: %s, where %s is expected: %s", sd_persist_status_name(status),
                 sd_persist_status_name(expected), d->reason);
    assert_true((status == SD_PERSIST_OK || status == SD_PERSIST_FRESH) == (d->journal != NULL));
}

void desk_open(desk_t *d, uint64_t size)
{
    memset(d, 0, sizeof *d);
    dir_make(d->dir);
    d->f.now = 1000;
    desk_store_anew(d, size);
    desk_journal_open(d, SD_PERSIST_FRESH);
}

void desk_close(desk_t *d)
{
    sd_journal_close(&d->journal);
    fixture_close(&d->f);
    dir_remove(d->dir);
}

sd_persist_status_t desk_try_round(desk_t *d, bool everything, const atomic_bool *stop)
{
    sd_round_options_t o = { d->f.now, WALL + d->f.now + (uint64_t)d->wall_shift, everything, everything, stop };
    sd_persist_status_t status = sd_persist_round(d->journal, sd_store_lane(d->f.store, 1), &o, &d->result, d->reason);

    d->cleaned += status == SD_PERSIST_OK ? d->result.cleaned : 0;
    return status;
}

void desk_round(desk_t *d)
{
    sd_persist_status_t status = desk_try_round(d, false, NULL);

    if (status != SD_PERSIST_OK)
        fail_msg("round: %s: %s", sd_persist_status_name(status), d->reason);
}

uint64_t desk_clock(void *baton)
{
    return ((desk_t *)baton)->f.now;
}

sd_load_sum_t desk_load(desk_t *d, bool check_first, sd_persist_status_t expected)
{
    sd_load_options_t o;
    sd_load_target_t target = { d->f.lane, d->f.now, desk_clock, NULL, d };
    sd_load_sum_t sum;
    sd_load_t *load = NULL;
    sd_persist_status_t status;

    memset(&o, 0, sizeof o);
    memset(&sum, 0, sizeof sum);
    memset(o.seed, 0x5e, sizeof o.seed);
    o.wall_ms = WALL + d->f.now + (uint64_t)d->wall_shift;
    o.check_first = check_first;
    o.patience_ms = 60000; /* valgrind */
    status = sd_load_start(&load, d->dir, &o, d->reason);
    if (status == SD_PERSIST_OK) {
        status = sd_load_into_store(load, &target, &sum, d->reason);
        sd_load_end(&load);
    }
    assert_null(load);
    if (status != expected)
        fail_msg("load: %s, where %s is expected: %s", sd_persist_status_name(status),
                 sd_persist_status_name(expected), d->reason);
    return sum;
}

sd_load_sum_t desk_reboot(desk_t *d)
{
    sd_load_sum_t sum;
    uint64_t size = d->f.size;

    desk_round(d);
    sd_journal_close(&d->journal);
    desk_store_anew(d, size);
    sum = desk_load(d, true, SD_PERSIST_OK);
    desk_journal_open(d, SD_PERSIST_OK);
    assert_clean(d->f.store);
    return sum;
}

/* ---- a load without a store ---- */

static bool take_data(sd_load_t *load, loaded_record_t *r)
{
    uint32_t got = 0;

    r->data = malloc(r->head.data_len + 1u);
    assert_non_null(r->data);
    while (got < r->head.data_len) {
        struct iovec iov = { r->data + got, r->head.data_len - got };
        size_t n = sd_load_data(load, &iov, 1);

        if (n == 0)
            return false;
        got += (uint32_t)n;
    }
    return true;
}

loaded_t load_all(const char *dir, uint64_t wall_ms, bool check_first)
{
    loaded_t l;
    sd_load_options_t o;
    sd_load_t *load;
    sd_load_step_t step;
    uint32_t room = 0;

    memset(&l, 0, sizeof l);
    memset(&o, 0, sizeof o);
    o.wall_ms = wall_ms;
    o.check_first = check_first;
    o.patience_ms = 60000;
    l.status = sd_load_start(&load, dir, &o, l.reason);
    if (l.status != SD_PERSIST_OK)
        return l;
    do {
        if (l.count == room) {
            room = room ? 2 * room : 64;
            l.records = realloc(l.records, room * sizeof *l.records);
            assert_non_null(l.records);
        }
        step = sd_load_next(load, &l.records[l.count].head, 1000);
        if (step == SD_LOAD_RECORD && take_data(load, &l.records[l.count++]))
            continue;
    } while (step == SD_LOAD_RECORD || step == SD_LOAD_WAIT);
    l.status = sd_load_status(load);
    snprintf(l.reason, sizeof l.reason, "%s", sd_load_reason(load));
    l.report = *sd_load_report(load);
    assert_true((step == SD_LOAD_DONE) == (l.status == SD_PERSIST_OK));
    sd_load_end(&load);
    return l;
}

void loaded_free(loaded_t *l)
{
    uint32_t i;

    for (i = 0; i < l->count; i++)
        free(l->records[i].data);
    free(l->records);
    memset(l, 0, sizeof *l);
}

const loaded_record_t *loaded_find(const loaded_t *l, const test_key_t *key)
{
    uint32_t i;

    for (i = 0; i < l->count; i++)
        if (l->records[i].head.key_len == key->len && memcmp(l->records[i].head.key, key->bytes, key->len) == 0)
            return &l->records[i];
    return NULL;
}

/* ---- what should be there ---- */

test_key_t model_key(uint32_t n)
{
    return numbered_key(n, n % 7 == 3 ? 250 : 8 + n % 20);
}

void model_step(desk_t *d, model_t *m, dice_t *dice, uint32_t most)
{
    uint32_t n = dice_below(dice, MODEL_KEYS), what = dice_below(dice, 10);
    uint64_t lives = dice_below(dice, 4) == 0 ? 1 + dice_below(dice, 300) : MINUTE + dice_below(dice, 100000);
    test_key_t key = model_key(n);
    model_value_t *v = &m->key[n];
    bool live = v->there && v->expiry > d->f.now;

    if (what < 6) {
        v->seed = dice_roll(dice);
        v->len = dice_below(dice, 8) == 0 ? dice_below(dice, most + 1) : dice_below(dice, most / 16 + 2);
        v->expiry = d->f.now + lives;
        v->there = true;
        v->version = put_ok(&d->f, &key, v->seed, v->len, v->expiry);
    }
    else if (what < 8) {
        assert_int_equal(sd_store_touch(d->f.lane, key.bytes, key.len, d->f.now + lives, d->f.now), live ? SD_OK : SD_MISS);
        if (live)
            v->expiry = d->f.now + lives;
    }
    else {
        assert_int_equal(delete_key(&d->f, &key), live ? SD_OK : SD_MISS);
        v->there = false;
    }
}

const char *model_compare(const model_t *m, const loaded_t *l, uint64_t now)
{
    static char text[200];
    uint32_t n, live = 0;

    for (n = 0; n < MODEL_KEYS; n++) {
        const model_value_t *v = &m->key[n];
        bool is_live = v->there && v->expiry > now;
        test_key_t key = model_key(n);
        const loaded_record_t *r = loaded_find(l, &key);

        live += is_live;
        if (is_live != (r != NULL)) {
            snprintf(text, sizeof text, "key %u (version %llu): %s", n, (unsigned long long)v->version,
                     r ? "it is there again" : "it is lost");
            return text;
        }
        if (r == NULL)
            continue;
        if (r->head.version != v->version || r->head.expiry != WALL + v->expiry || r->head.data_len != v->len
            || !value_is(r->data, v->len, v->seed)) {
            snprintf(text, sizeof text, "key %u: version %llu of %u bytes until %llu, where it is %llu of %u until %llu", n,
                     (unsigned long long)r->head.version, r->head.data_len, (unsigned long long)(r->head.expiry - WALL),
                     (unsigned long long)v->version, v->len, (unsigned long long)v->expiry);
            return text;
        }
    }
    return l->count == live ? NULL : "there are keys that never were";
}

void model_check_store(const model_t *m, fixture_t *f)
{
    uint32_t n;

    for (n = 0; n < MODEL_KEYS; n++) {
        const model_value_t *v = &m->key[n];
        test_key_t key = model_key(n);

        if (v->there && v->expiry > f->now)
            assert_value(f, &key, v->seed, v->len);
        else
            assert_false(is_there(f, &key));
    }
}
