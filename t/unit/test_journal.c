/* SPDX-License-Identifier: Apache-2.0
 *
 * test_journal.c: who may open a directory, what is refused and left as it is, and
 * that a journal notices when its files are gone.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <lmdb.h>

#include "persist_fixture.h"

static desk_t desk;

static int set_up(void **state)
{
    (void)state;
    desk_open(&desk, 4 * MIB);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    desk_close(&desk);
    return 0;
}

static void a_fresh_one_is_empty_and_private(void **state)
{
    const sd_journal_state_t *s = sd_journal_state(desk.journal);
    const char *const files[] = { "data.mdb", "lock.mdb", "owner" };
    char path[128];
    struct stat st;
    size_t i;

    (void)state;
    assert_true(s->round == 0 && s->first == 1 && s->next == 1 && s->bytes == 0 && s->wall_ms == WALL + 1000);
    for (i = 0; i < 3; i++) {
        desk_path(&desk, files[i], path);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    desk_path(&desk, "data.new", path);
    assert_int_equal(access(path, F_OK), -1);
    assert_true(sd_journal_file_bytes(desk.journal) > 0);
    sd_journal_close(&desk.journal);
    sd_journal_close(&desk.journal); /* none */
    desk_journal_open(&desk, SD_PERSIST_OK);
}

static void without_create_none_is_made(void **state)
{
    sd_journal_options_t o;
    sd_journal_t *j;
    char dir[64], reason[SD_PERSIST_REASON];

    (void)state;
    dir_make(dir);
    memset(&o, 0, sizeof o);
    assert_int_equal(sd_journal_open(&j, dir, &o, reason), SD_PERSIST_FRESH);
    assert_null(j);
    assert_int_equal(rmdir(dir), 0); /* it is still empty */
    assert_int_equal(sd_journal_open(&j, dir, &o, reason), SD_PERSIST_FAILED);
    assert_non_null(strstr(reason, strerror(ENOENT)));
    o.create = true;
    assert_int_equal(sd_journal_open(&j, dir, &o, reason), SD_PERSIST_FAILED);
    assert_null(j);
}

static void two_do_not_share_it(void **state)
{
    sd_journal_options_t o;
    sd_journal_t *second;
    loaded_t l;
    char path[128];
    int fd, status;
    pid_t pid;

    (void)state;
    memset(&o, 0, sizeof o);
    assert_int_equal(sd_journal_open(&second, desk.dir, &o, desk.reason), SD_PERSIST_BUSY);
    assert_null(second);
    assert_non_null(strstr(desk.reason, "another process"));
    l = load_all(desk.dir, WALL, false);
    assert_int_equal(l.status, SD_PERSIST_BUSY);
    loaded_free(&l);
    sd_journal_close(&desk.journal);

    /* another process has it, until it dies */
    desk_path(&desk, "owner", path);
    pid = fork();
    if (pid == 0) {
        fd = open(path, O_RDWR);
        _exit(flock(fd, LOCK_EX | LOCK_NB) == 0 && kill(getpid(), SIGSTOP) == 0 ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    desk_journal_open(&desk, SD_PERSIST_BUSY);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    desk_journal_open(&desk, SD_PERSIST_OK);
}

/* Refused by both ways in, and not a byte of it is changed. */
static void refused(sd_persist_status_t by_load, const char *says)
{
    char path[128];
    bytes_t before, after;
    loaded_t l;

    desk_path(&desk, "data.mdb", path);
    before = file_read(path);
    desk_journal_open(&desk, SD_PERSIST_ALIEN);
    assert_non_null(strstr(desk.reason, says));
    assert_non_null(strstr(desk.reason, desk.dir));
    l = load_all(desk.dir, WALL, true);
    assert_int_equal(l.status, by_load);
    assert_non_null(strstr(l.reason, says));
    loaded_free(&l);
    after = file_read(path);
    assert_int_equal(before.len, after.len);
    assert_memory_equal(before.at, after.at, before.len);
    free(before.at);
    free(after.at);
}

static void what_is_not_ours_is_left_alone(void **state)
{
    char path[128], lock[128];
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_val key = { 1, (void *)"a" };

    (void)state;
    sd_journal_close(&desk.journal);
    desk_path(&desk, "data.mdb", path);
    desk_path(&desk, "lock.mdb", lock);
    file_write(path, "", 0);
    refused(SD_PERSIST_ALIEN, "empty");
    file_write(path, "The quick brown fox", 19);
    refused(SD_PERSIST_ALIEN, "LMDB");

    unlink(path);
    unlink(lock);
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_open(env, desk.dir, 0, 0600), 0);
    mdb_env_close(env);
    refused(SD_PERSIST_ALIEN, "without our tables");

    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_set_maxdbs(env, 4), 0);
    assert_int_equal(mdb_env_open(env, desk.dir, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, "chunks", MDB_CREATE | MDB_INTEGERKEY, &dbi), 0);
    assert_int_equal(mdb_dbi_open(txn, "state", MDB_CREATE, &dbi), 0);
    assert_int_equal(mdb_put(txn, dbi, &key, &key, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
    refused(SD_PERSIST_ALIEN, "no state");

    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    desk_journal_open(&desk, SD_PERSIST_ALIEN);
    assert_non_null(strstr(desk.reason, "no regular file"));
    rmdir(path);
    desk_journal_open(&desk, SD_PERSIST_FRESH);
}

static void what_is_cut_short_is_refused(void **state)
{
    test_key_t key = numbered_key(1, 20);
    char path[128];
    bytes_t whole;

    (void)state;
    put_ok(&desk.f, &key, 1, 300000, 100000);
    desk_round(&desk);
    sd_journal_close(&desk.journal);
    desk_path(&desk, "data.mdb", path);
    whole = file_read(path);
    assert_int_equal(truncate(path, (off_t)whole.len - 4096), 0);
    refused(SD_PERSIST_DAMAGED, "cut short");
    file_write(path, whole.at, whole.len);
    free(whole.at);
    desk_journal_open(&desk, SD_PERSIST_OK);
}

static void it_notices_that_it_is_gone(void **state)
{
    char from[128], to[128];

    (void)state;
    desk_path(&desk, "data.mdb", from);
    desk_path(&desk, "elsewhere", to);
    assert_true(sd_journal_is_there(desk.journal));
    assert_int_equal(rename(from, to), 0);
    assert_false(sd_journal_is_there(desk.journal));
    file_write(from, "other", 5);
    assert_false(sd_journal_is_there(desk.journal));
    assert_int_equal(rename(to, from), 0);
    assert_true(sd_journal_is_there(desk.journal));
    desk_path(&desk, "owner", from);
    assert_int_equal(unlink(from), 0);
    assert_false(sd_journal_is_there(desk.journal));
}

static void a_copy_without_its_witness_is_as_good(void **state)
{
    test_key_t key = numbered_key(1, 20);
    char data[128], owner[128];
    bytes_t old;
    loaded_t l;

    (void)state;
    put_ok(&desk.f, &key, 1, 3000, 100000);
    desk_round(&desk);
    desk_path(&desk, "data.mdb", data);
    desk_path(&desk, "owner", owner);
    old = file_read(data);
    assert_int_equal(delete_key(&desk.f, &key), SD_OK);
    desk_round(&desk);
    sd_journal_close(&desk.journal);
    file_write(data, old.at, old.len);
    refused(SD_PERSIST_DAMAGED, "older copy");
    assert_int_equal(unlink(owner), 0);
    l = load_all(desk.dir, WALL, true);
    assert_int_equal(l.status, SD_PERSIST_OK);
    assert_int_equal(l.count, 1);
    loaded_free(&l);
    desk_journal_open(&desk, SD_PERSIST_OK);
    free(old.at);
}

/* By LMDB's own means, beside us: with its free pages and without. */
static void a_copy_by_lmdb_can_be_loaded(void **state)
{
    const unsigned flags[] = { 0, MDB_CP_COMPACT };
    uint32_t n, i;

    (void)state;
    for (n = 0; n < 60; n++) {
        test_key_t key = numbered_key(n % 20, 20);

        put_ok(&desk.f, &key, n, 9000 + n, 100000);
        desk_round(&desk);
    }
    for (i = 0; i < 2; i++) {
        char dir[64];
        MDB_env *env;
        sd_journal_options_t o;
        sd_journal_t *j;
        loaded_t l;

        dir_make(dir);
        assert_int_equal(mdb_env_create(&env), 0);
        sd_journal_close(&desk.journal); /* one process may open it once only */
        assert_int_equal(mdb_env_open(env, desk.dir, MDB_RDONLY, 0600), 0);
        assert_int_equal(mdb_env_copy2(env, dir, flags[i]), 0);
        mdb_env_close(env);
        desk_journal_open(&desk, SD_PERSIST_OK);
        l = load_all(dir, WALL, true);
        if (l.status != SD_PERSIST_OK)
            fail_msg("copy %u: %s", i, l.reason);
        assert_int_equal(l.count, 20);
        loaded_free(&l);
        memset(&o, 0, sizeof o);
        assert_int_equal(sd_journal_open(&j, dir, &o, desk.reason), SD_PERSIST_OK);
        sd_journal_close(&j);
        dir_remove(dir);
    }
}

static void statuses_have_names(void **state)
{
    int i, k;

    (void)state;
    for (i = SD_PERSIST_OK; i <= SD_PERSIST_FAILED; i++)
        for (k = SD_PERSIST_OK; k < i; k++)
            assert_string_not_equal(sd_persist_status_name((sd_persist_status_t)i),
                                    sd_persist_status_name((sd_persist_status_t)k));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_fresh_one_is_empty_and_private, set_up, tear_down),
        cmocka_unit_test_setup_teardown(without_create_none_is_made, set_up, tear_down),
        cmocka_unit_test_setup_teardown(two_do_not_share_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_not_ours_is_left_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_cut_short_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(it_notices_that_it_is_gone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_copy_without_its_witness_is_as_good, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_copy_by_lmdb_can_be_loaded, set_up, tear_down),
        cmocka_unit_test(statuses_have_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
