<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

namespace Sessiond;

/**
 * Pool.php: one connection for each worker process and address that outlives
 * the request, in PHP's own table of persistent streams.
 *
 * PHP keeps the stream and nothing of ours, and a request may end anywhere: a
 * time limit or a full memory jumps out of the middle of a write, runs no
 * destructor, and leaves a stream on which the rest of a frame or of another
 * user's answer is still due. So the mark is on the stream itself: its chunk
 * size, which counts for nothing where PHP's buffer is off, is FREE exactly
 * while it lies in the pool in good order. Whoever finds a used one without
 * that closes it. The hello with its nonce is the second proof.
 *
 * The name of the stream holds the process, so that a child made by fork()
 * does not find its parent's. What a request has taken is remembered, too: a
 * second session of the same page must not say its hello there, which would
 * release the first one's lock.
 */
final class Pool
{
    private const FREE = 4096;
    private const BUSY = 8192;

    /** @var array<string, true> what this request has taken */
    private static array $taken = [];

    /** The name of the connection that is the caller's from now on, '' when it must open its own. */
    public static function take(Dsn $dsn, int $process): string
    {
        if (!$dsn->isPersistent()) {
            return '';
        }
        $name = $dsn->address() . '/' . $process;
        if (isset(self::$taken[$name])) {
            return '';
        }
        self::$taken[$name] = true;
        return $name;
    }

    public static function leave(string $name): void
    {
        unset(self::$taken[$name]);
    }

    /**
     * The stream of that name, a new one when there is none or PHP sees that
     * its end has come.
     *
     * PHP looks it up by the address as it is written. Behind a port it ignores
     * what follows a slash, and a Unix socket's "port" when it is negative.
     *
     * @return resource|false
     */
    public static function stream(Dsn $dsn, int $process, float $seconds, ?int &$errno, ?string &$error)
    {
        if ($dsn->isUnix()) {
            return \pfsockopen($dsn->address(), -$process, $errno, $error, $seconds);
        }
        return \stream_socket_client(
            $dsn->address() . '/' . $process,
            $errno,
            $error,
            $seconds,
            \STREAM_CLIENT_CONNECT | \STREAM_CLIENT_PERSISTENT,
            \stream_context_create(['socket' => ['tcp_nodelay' => true]])
        );
    }

    /** @param resource $stream has a byte ever passed? PHP counts them */
    public static function isUsed($stream): bool
    {
        return \ftell($stream) !== 0;
    }

    /**
     * Is it new, or was it put back in good order? From now on it is neither.
     *
     * @param resource $stream
     */
    public static function claim($stream): bool
    {
        return \stream_set_chunk_size($stream, self::BUSY) === self::FREE || !self::isUsed($stream);
    }

    /** @param resource $stream */
    public static function markFree($stream): void
    {
        \stream_set_chunk_size($stream, self::FREE);
    }

    /**
     * True once for each process and subject, so that a log is told once. What
     * a process remembers is a persistent stream again: a UDP socket, on which
     * nothing is ever sent, and its mark.
     */
    public static function isFirst(string $subject): bool
    {
        $name = 'first ' . $subject;
        if (isset(self::$taken[$name])) {
            return false;
        }
        self::$taken[$name] = true;
        $stream = @\stream_socket_client(
            'udp://127.0.0.1:9/' . \getmypid() . $subject,
            $errno,
            $error,
            1,
            \STREAM_CLIENT_CONNECT | \STREAM_CLIENT_PERSISTENT
        );
        if ($stream === false) {
            return true;
        }
        return \stream_set_chunk_size($stream, self::FREE) !== self::FREE;
    }
}
