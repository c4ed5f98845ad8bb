<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

/*
 * to-files.php: writes the live sessions that a Redis or a memcached has into a
 * directory, from where sessiond-import takes them:
 *
 *   php to-files.php redis tcp://127.0.0.1:6379 DIRECTORY [LIFETIME [PREFIX]]
 *   php to-files.php memcached tcp://127.0.0.1:11211 DIRECTORY [LIFETIME [PREFIX]]
 *   sessiond-import -e LIFETIME sharedance DIRECTORY SERVER
 *
 * Each file is named by its session's id and dated so that LIFETIME (1440, as
 * session.gc_maxlifetime) after that date is when the session ends. LIFETIME has
 * to be the longest that a session may have left. PREFIX is what the extension
 * puts before each id. Run again it brings the directory up to date. The
 * directory has everybody's sessions in it: it must be yours alone, and go
 * when all is done. A password for Redis is taken from REDISCLI_AUTH.
 */

const PREFIXES = ['redis' => 'PHPREDIS_SESSION:', 'memcached' => 'memc.sess.key.'];

function fail(string $why): never
{
    fwrite(STDERR, "to-files.php: $why\n");
    exit(1);
}

/** A connection whose reads are whole lines or whole values. */
final class Wire
{
    /** @var resource */
    private $stream;

    public function __construct(string $address)
    {
        $stream = @stream_socket_client($address, $code, $error, 5.0);
        if ($stream === false) {
            fail("$address: $error");
        }
        stream_set_timeout($stream, 60);
        $this->stream = $stream;
    }

    public function say(string $bytes): void
    {
        for ($sent = 0; $sent < strlen($bytes); $sent += $n) {
            $n = @fwrite($this->stream, substr($bytes, $sent));
            if (!$n) {
                fail('the connection was lost');
            }
        }
    }

    public function line(): string
    {
        $line = fgets($this->stream);
        if ($line === false || !str_ends_with($line, "\n")) {
            fail('the connection was lost');
        }
        return rtrim($line, "\r\n");
    }

    public function bytes(int $n): string
    {
        $bytes = $n > 0 ? stream_get_contents($this->stream, $n) : '';
        if ($bytes === false || strlen($bytes) !== $n) {
            fail('the connection was lost');
        }
        return $bytes;
    }

    /** @return string|int|list<mixed>|null a reply of Redis */
    public function redis(string ...$words): string|int|array|null
    {
        $this->say('*' . count($words) . "\r\n" . implode('', array_map(fn ($word) => '$' . strlen($word) . "\r\n$word\r\n", $words)));
        return $this->redisReply();
    }

    private function redisReply(): string|int|array|null
    {
        $line = $this->line();
        $rest = substr($line, 1);
        switch ($line[0]) {
            case '+': return $rest;
            case ':': return (int) $rest;
            case '*': return array_map(fn () => $this->redisReply(), (int) $rest > 0 ? range(1, (int) $rest) : []);
            case '$': return $rest === '-1' ? null : substr($this->bytes((int) $rest + 2), 0, -2);
            default: fail("Redis says $rest");
        }
    }
}

/** @return Generator<string, array{string, float}> id => [data, when it ends] */
function redis_sessions(string $address, string $prefix): Generator
{
    $wire = new Wire($address);
    if (getenv('REDISCLI_AUTH') !== false) {
        $wire->redis('AUTH', (string) getenv('REDISCLI_AUTH'));
    }
    $cursor = '0';
    do {
        [$cursor, $keys] = $wire->redis('SCAN', $cursor, 'MATCH', addcslashes($prefix, '*?[]\\') . '*', 'COUNT', '1000');
        foreach ($keys as $key) {
            $left = $wire->redis('PTTL', $key);
            if ($left > 0 && $wire->redis('TYPE', $key) === 'string' && ($data = $wire->redis('GET', $key)) !== null) {
                yield substr($key, strlen($prefix)) => [$data, microtime(true) + $left / 1000];
            }
        }
    } while ($cursor !== '0');
}

/** @return Generator<string, array{string, float}> the same; what memcached's crawler lists */
function memcached_sessions(string $address, string $prefix): Generator
{
    $wire = new Wire($address);
    $wire->say("lru_crawler metadump all\r\n");
    $ends = [];
    while (($line = $wire->line()) !== 'END') {
        if (preg_match('~^key=(\S+) exp=(-?\d+) ~', $line, $found) !== 1) {
            fail("memcached says $line");
        }
        $key = rawurldecode($found[1]);
        if (str_starts_with($key, $prefix) && (int) $found[2] > 0) {
            $ends[$key] = (int) $found[2];
        }
    }
    foreach ($ends as $key => $end) {
        $wire->say("get $key\r\n");
        $line = $wire->line();
        if ($line === 'END') {
            continue;
        }
        if (preg_match('~^VALUE \S+ \d+ (\d+)$~', $line, $found) !== 1) {
            fail("memcached says $line");
        }
        $data = substr($wire->bytes((int) $found[1] + 2), 0, -2);
        $wire->line();
        yield substr((string) $key, strlen($prefix)) => [$data, (float) $end];
    }
}

[, $kind, $address, $directory] = $argv + [1 => '', 2 => '', 3 => ''];
$lifetime = (int) ($argv[4] ?? 1440);
$prefix = $argv[5] ?? PREFIXES[$kind] ?? '';
if (!isset(PREFIXES[$kind]) || $directory === '' || $lifetime < 1) {
    fail('usage: php to-files.php redis|memcached ADDRESS DIRECTORY [LIFETIME [PREFIX]]');
}
umask(0077);
if (!is_dir($directory) && !mkdir($directory)) {
    fail("cannot make $directory");
}
if ((fileperms($directory) & 0077) !== 0) {
    fail("$directory is open to others: chmod 700 it");
}
$gone = array_flip(array_filter(scandir($directory), fn ($name) => $name[0] !== '.'));
$written = 0;
foreach ($kind === 'redis' ? redis_sessions($address, $prefix) : memcached_sessions($address, $prefix) as $id => [$data, $end]) {
    $id = (string) $id;
    if (preg_match('~^[A-Za-z0-9,-]{1,250}$~D', $id) !== 1 || $data === '') {
        continue;   // a lock, or nothing to lose
    }
    $temporary = "$directory/.$id";
    if (file_put_contents($temporary, $data) !== strlen($data) || !touch($temporary, (int) ceil($end) - $lifetime)
        || !rename($temporary, "$directory/$id")) {
        fail("cannot write to $directory");
    }
    unset($gone[$id]);
    $written++;
}
foreach (array_keys($gone) as $id) {
    unlink("$directory/$id");
}
echo "$written sessions\n";
