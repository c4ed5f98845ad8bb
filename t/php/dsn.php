<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

/*
 * dsn.php: the TAP body of dsn.t: every form a DSN may have, every mistake
 * with the sentence it must give (value, bound, remedy), and the rules for
 * session ids. No server and no session is involved. The hard part is the
 * list of near misses that a lenient parser would let through.
 */

require dirname(__DIR__, 2) . '/php/autoload.php';

use Sessiond\Dsn;
use Sessiond\Key;
use Sessiond\SessiondException;

/* Session settings are fixed once there is output. */
ob_start();

$tests = 0;

function ok(bool $passed, string $name, string $detail = ''): void
{
    global $tests;
    printf("%s %d - %s\n", $passed ? 'ok' : 'not ok', ++$tests, addcslashes($name, "\0..\37#\177..\377"));
    if (!$passed && $detail !== '') {
        echo '# ', addcslashes($detail, "\0..\37\177..\377"), "\n";
    }
}

function same($got, $wanted, string $name): void
{
    ok($got === $wanted, $name, 'got ' . var_export($got, true) . ', wanted ' . var_export($wanted, true));
}

function good(string $text, string $address, float $timeout = 2.0, string $prefix = '', bool $unix = false): void
{
    try {
        $dsn = new Dsn($text);
        same(
            [$dsn->address(), $dsn->timeout(), $dsn->prefix(), $dsn->isUnix()],
            [$address, $timeout, $prefix, $unix],
            "good: $text"
        );
    } catch (SessiondException $e) {
        ok(false, "good: $text", $e->getMessage());
    }
}

/** The message must hold each of the words. */
function bad(string $text, string ...$words): void
{
    try {
        $dsn = new Dsn($text);
        ok(false, "bad: $text", 'was taken as ' . $dsn->address());
    } catch (SessiondException $e) {
        $missing = array_filter($words, static fn ($word) => strpos($e->getMessage(), $word) === false);
        ok(
            $missing === [] && $e->getCode() === SessiondException::SETUP
                && preg_match('~[\x00-\x1f\x7f-\xff]~', $e->getMessage()) === 0,
            'bad: ' . substr($text, 0, 60),
            implode(' | ', $missing) . ' not in: ' . $e->getMessage()
        );
    }
}

good('tcp://host', 'tcp://host:1042');
good('tcp://host/', 'tcp://host:1042');
good('tcp://192.168.0.100:1', 'tcp://192.168.0.100:1');
good('tcp://a.b-c.example:65535', 'tcp://a.b-c.example:65535');
good('tcp://my_host:1042', 'tcp://my_host:1042');
good('tcp://[::1]', 'tcp://[::1]:1042');
good('tcp://[::1]:1043', 'tcp://[::1]:1043');
good('tcp://[::ffff:10.0.0.1]:1043', 'tcp://[::ffff:10.0.0.1]:1043');
good('tcp://[fe80::1%eth0]:1043', 'tcp://[fe80::1%eth0]:1043');
good('tcp://host?timeout=0.1', 'tcp://host:1042', 0.1);
good('tcp://host?timeout=300', 'tcp://host:1042', 300.0);
good('tcp://host:1042?timeout=2&prefix=', 'tcp://host:1042');
good('tcp://host:1042/?timeout=5&prefix=shop-', 'tcp://host:1042', 5.0, 'shop-');
good('tcp://host?prefix=a%26b', 'tcp://host:1042', 2.0, 'a&b');
good('tcp://host?prefix=a=b', 'tcp://host:1042', 2.0, 'a=b');
good('tcp://host?prefix=a+b', 'tcp://host:1042', 2.0, 'a+b');
good('tcp://host?', 'tcp://host:1042');
good('tcp://host?prefix=' . str_repeat('x', 64), 'tcp://host:1042', 2.0, str_repeat('x', 64));
good('unix:///run/sessiond.sock', 'unix:///run/sessiond.sock', 2.0, '', true);
good('unix:///run/a%20b%3Fc.sock?timeout=1', 'unix:///run/a b?c.sock', 1.0, '', true);
good('unix:///' . str_repeat('x', 106), 'unix:///' . str_repeat('x', 106), 2.0, '', true);

bad('', 'is empty', 'tcp://host:1042', 'unix:///');
bad('/var/lib/php/sessions', '/var/lib/php/sessions', 'does not begin with tcp:// or unix://');
bad('TCP://host', 'does not begin');
bad('tcp:host', 'does not begin');
bad('udp://host:1', 'does not begin');
bad(' tcp://host', 'does not begin');
bad('tcp://', 'is not a host');
bad('tcp://:1042', 'is not a host');
bad('tcp://host:', 'port', '""', '1 to 65535');
bad('tcp://host:0', 'port', '"0"', '1 to 65535', 'SessiondListen');
bad('tcp://host:70000', '"70000"', '1 to 65535');
bad('tcp://host:65536', '"65536"', '1 to 65535');
bad('tcp://host:-1', '"-1"', '1 to 65535');
bad('tcp://host:+1', '"+1"');
bad('tcp://host: 1', '1 to 65535');
bad('tcp://host:10x', '"10x"', '1 to 65535');
bad("tcp://host:1042\n", '1 to 65535');
bad("tcp://host\n", 'is not a host');
bad('tcp://ho st', 'is not a host');
bad('tcp://user@host', 'user name', 'tcp://...@host');
bad('tcp://user:pass@host', 'user name', '"tcp://...@host"');
bad('tcp://host:1042/path', '"1042/path"');
bad('tcp://host/path', 'is not a host');
bad('tcp://-host', 'is not a host');
bad('tcp://::1', 'brackets');
bad('tcp://::1:1042', 'brackets');
bad('tcp://[::1', 'brackets');
bad('tcp://[::1]x', 'brackets');
bad('tcp://[host]', 'IPv6');
bad('tcp://[127.0.0.1]', 'IPv6');
bad('tcp://[]', 'IPv6');
bad('tcp://' . str_repeat('h', 254), 'is not a host');
bad('tcp://host?timeout=0', 'timeout=0', '0.1', '300');
bad('tcp://host?timeout=0.05', '0.05', '0.1', '300');
bad('tcp://host?timeout=301', 'timeout=301', '300');
bad('tcp://host?timeout=-1', 'timeout=-1');
bad('tcp://host?timeout=', 'timeout=', '0.1');
bad('tcp://host?timeout=2s', 'timeout=2s');
bad('tcp://host?timeout=1e2', 'timeout=1e2');
bad('tcp://host?timeout=INF', 'timeout=INF');
bad('tcp://host?timeout=.5', 'timeout=.5', 'timeout=0.5');
bad("tcp://host?timeout=2\n", 'timeout=2');
bad('tcp://host?timeout', 'has no value', 'name=value');
bad('tcp://host?timeout=2&timeout=3', 'twice', 'timeout');
bad('tcp://host?timeot=2', '"timeot" is unknown', 'timeout, lock_wait, lock, persistent, ttl, prefix and on_error');
bad('tcp://host?Timeout=2', '"Timeout" is unknown');
bad('tcp://host?=2', '"" is unknown');
bad('tcp://host?timeout=2&', 'has no value');
bad('tcp://host?timeout=2;prefix=a', 'timeout=2;prefix');
bad('tcp://host?lock_wait=601', 'lock_wait=601', '0 and 600', 'lock_wait=2');
bad('tcp://host?lock_wait=-1', 'lock_wait=-1');
bad('tcp://host?lock_wait=', 'lock_wait=');
bad('tcp://host?lock=', 'lock= is neither on nor off', 'lock=off');
bad('tcp://host?lock=true', 'lock=true');
bad('tcp://host?persistent=yes', 'persistent=yes', 'neither on nor off');
bad('tcp://host?ttl=2592001', 'ttl=2592001', '2592000');
bad('tcp://host?ttl=1.5', 'ttl=1.5', 'whole seconds');
bad('tcp://host?ttl=-1', 'ttl=-1', 'session.gc_maxlifetime');
bad('tcp://host?on_error=die', 'on_error=die', 'neither throw nor warn');
bad('tcp://host?prefix=a/b', 'prefix=a/b', 'a key may not have');
bad('tcp://host?prefix=a.b', 'prefix=a.b');
bad('tcp://host?prefix=a%20b', 'a key may not have');
bad('tcp://host?prefix=%00', 'a key may not have');
bad("tcp://host?prefix=\xc3\xa4", 'a key may not have');
bad("tcp://host?prefix=a\n", 'a key may not have');
bad('tcp://host?prefix=' . str_repeat('x', 65), '65 bytes', 'at most 64');
bad('unix://run/s', 'not absolute', 'unix:///');
bad('unix://', 'not absolute');
bad('unix:/run/s', 'does not begin');
bad('unix:///a%00b', 'NUL');
bad('unix:///' . str_repeat('x', 107), '108 bytes', '107');
bad('unix:///s?port=1', '"port" is unknown');
bad("tcp://host\x1b[31m?x=1", 'is not a host');

/** What the options say: locks, seconds to wait, pooled, lifetime, reads throw, writes throw. */
function options(string $query): array
{
    $dsn = new Dsn('tcp://host' . $query);
    return [$dsn->wantsLocks(), $dsn->lockWait(), $dsn->isPersistent(), $dsn->ttl(), $dsn->readsThrow(), $dsn->writesThrow()];
}

ini_set('session.gc_maxlifetime', '1234');
same(options(''), [true, 30.0, false, 1234, true, false], 'the options\' defaults');
same(options('?lock=off&persistent=on'), [false, 30.0, true, 1234, true, false], 'lock and persistent');
same(options('?lock=1&persistent=0'), [true, 30.0, false, 1234, true, false], 'lock and persistent as numbers');
same(options('?lock_wait=0'), [true, 0.0, false, 1234, true, false], 'lock_wait=0');
same(options('?lock_wait=600&ttl=0'), [true, 600.0, false, 0, true, false], 'the most of lock_wait, and ttl=0');
same(options('?ttl=2592000&on_error=throw'), [true, 30.0, false, 2592000, true, true], 'the most of ttl, on_error=throw');
same(options('?lock_wait=0.25&on_error=warn'), [true, 0.25, false, 1234, false, false], 'on_error=warn');
ini_set('session.gc_maxlifetime', '99999999');
same(options('')[3], 2592000, 'a gc_maxlifetime over 30 days is 30 days');
ini_set('session.gc_maxlifetime', '2K');
same(options('')[3], 2048, 'a gc_maxlifetime is read as PHP reads it');
ini_set('session.gc_maxlifetime', '0');
same(options('')[3], 0, 'a gc_maxlifetime of 0 is the server\'s lifetime');
ini_set('session.gc_maxlifetime', '1440');

same(Dsn::looksLike('tcp://x'), true, 'tcp:// looks like a DSN');
same(Dsn::looksLike('unix:///x'), true, 'unix:/// looks like a DSN');
foreach (['', '/tmp', '5;/tmp', 'tcp:/x', 'memcached://x', "\ntcp://x"] as $path) {
    same(Dsn::looksLike($path), false, "no DSN: $path");
}

$allowed = implode('', array_map('chr', array_diff(range(33, 126), [ord('.'), ord('/')])));
same(Key::refusal('', $allowed), null, 'every byte that is allowed');
for ($byte = 0, $wrong = []; $byte < 256; $byte++) {
    $refused = Key::refusal('', 'a' . chr($byte) . 'b') !== null && Key::refusal('', 'ab' . chr($byte)) !== null;
    if ($refused !== (strpos($allowed, chr($byte)) === false)) {
        $wrong[] = $byte;
    }
}
same($wrong, [], 'and no other byte');
same(Key::refusal('', str_repeat('a', 250)), null, '250 bytes are allowed');
ok(strpos(Key::refusal('', str_repeat('a', 251)) ?? '', '251 bytes with the prefix, at most 250') !== false, '251 are not');
same(Key::refusal(str_repeat('p', 50), str_repeat('a', 200)), null, 'prefix and id: 250 bytes');
ok(Key::refusal(str_repeat('p', 51), str_repeat('a', 200)) !== null, 'prefix and id: 251 bytes');
ok(Key::refusal('', '') !== null, 'an empty id');
same(Key::mask('abcdefghijkl0123456789'), 'abcd...', 'a masked id');
same(Key::mask('abcdefgh'), '...', 'a short id shows nothing');
same(Key::mask("a\n\xff\"" . str_repeat('x', 20)), 'a??"...', 'a masked id holds no control bytes');

$sample = parse_ini_file(dirname(__DIR__, 2) . '/conf/php-sessiond.ini');
foreach ($sample as $name => $value) {
    ok(ini_get($name) !== false, "the sample ini: PHP knows $name");
}
good($sample['session.save_path'], 'tcp://127.0.0.1:1042');
ok(preg_match('~/Sessiond/prepend\.php$~D', $sample['auto_prepend_file']) === 1, 'the sample ini: the folder that make install uses');
same($sample['session.use_strict_mode'], '1', 'the sample ini: strict mode is on');

echo "1..$tests\n";
