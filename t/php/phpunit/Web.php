<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

namespace Sessiond\Tests;

/**
 * Web.php: what the PHPUnit tests share: where phpunit.t has put the servers
 * (in the environment), HTTP requests one by one or many at once, and one-shot
 * requests to the session server that owe nothing to the handler under test.
 */
final class Web
{
    public const LIMIT = 60;

    public static function dsn(string $options = ''): string
    {
        return 'tcp://127.0.0.1:' . self::env('SESSIOND_PORT') . '?timeout=20' . $options;
    }

    /** The server on which a lease lasts one second. */
    public static function leaseDsn(string $options = ''): string
    {
        return 'tcp://127.0.0.1:' . self::env('SESSIOND_LEASE_PORT') . '?timeout=20' . $options;
    }

    public static function env(string $name): string
    {
        $value = getenv($name);
        if ($value === false || $value === '') {
            throw new \RuntimeException("$name is not set; run t/php/phpunit.t");
        }
        return $value;
    }

    /** @return array<string, array{0: string}> name => base of the URLs */
    public static function sapis(): array
    {
        $sapis = [];
        foreach (explode(' ', self::env('SESSIOND_SAPIS')) as $pair) {
            [$name, $base] = explode('=', $pair, 2);
            $sapis[$name] = [$base];
        }
        return $sapis;
    }

    public static function newId(string $name): string
    {
        return $name . '-' . bin2hex(random_bytes(12));
    }

    /** @return resource a socket on which the request has been sent */
    public static function ask(string $base, string $query, string $id = '', string $page = 'count.php')
    {
        [$host, $path] = explode('/', $base, 2);
        $socket = stream_socket_client("tcp://$host", $errno, $error, self::LIMIT);
        if ($socket === false) {
            throw new \RuntimeException("$host: $error");
        }
        $cookie = $id === '' ? '' : "Cookie: PHPSESSID=$id\r\n";
        fwrite($socket, "GET /$path$page?$query HTTP/1.0\r\nHost: $host\r\n$cookie\r\n");
        stream_set_timeout($socket, self::LIMIT);
        return $socket;
    }

    /**
     * @param resource $socket
     * @return array{0: int, 1: string, 2: string} status (0: none), body, head
     */
    public static function answer($socket): array
    {
        $all = (string) stream_get_contents($socket);
        fclose($socket);
        [$head, $body] = explode("\r\n\r\n", $all, 2) + ['', ''];
        return [(int) substr($head, 9, 3), $body, $head];
    }

    /** @return array{0: int, 1: string, 2: string} */
    public static function get(string $base, string $query = '', string $id = '', string $page = 'count.php'): array
    {
        return self::answer(self::ask($base, $query, $id, $page));
    }

    /** The number in a page's answer, or the whole of it when there is none. */
    public static function count(array $answer): string
    {
        return preg_match('~ n=(-?\d+) ~', $answer[1], $part) === 1 ? $part[1] : implode(' ', $answer);
    }

    /** What sharedance's clients see: the data, '' when there is none. */
    public static function stored(string $key, bool $lease = false): string
    {
        return self::oneShot('F' . pack('N', strlen($key)) . $key, $lease);
    }

    public static function store(string $key, string $data, bool $lease = false): void
    {
        if (self::oneShot('S' . pack('NN', strlen($key), strlen($data)) . $key . $data, $lease) !== "OK\n") {
            throw new \RuntimeException("$key was not stored");
        }
    }

    private static function oneShot(string $frame, bool $lease): string
    {
        $port = self::env($lease ? 'SESSIOND_LEASE_PORT' : 'SESSIOND_PORT');
        $socket = stream_socket_client("tcp://127.0.0.1:$port", $errno, $error, self::LIMIT);
        fwrite($socket, $frame);
        $answer = (string) stream_get_contents($socket);
        fclose($socket);
        return $answer;
    }

    /** One number of the status page. */
    public static function status(string $name, bool $lease = false): int
    {
        [, $body] = self::get(self::env($lease ? 'SESSIOND_LEASE_HTTP' : 'SESSIOND_HTTP') . '/', 'auto', '', 'sessiond-status');
        return preg_match("~^Sessiond$name: (\d+)~m", $body, $part) === 1 ? (int) $part[1] : -1;
    }

    public static function eventually(callable $condition): bool
    {
        $end = microtime(true) + self::LIMIT;
        while (!$condition()) {
            if (microtime(true) > $end) {
                return false;
            }
            usleep(5000);
        }
        return true;
    }
}
