<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

namespace Sessiond;

/**
 * Connection.php: one stream socket that reads exact lengths, writes whole
 * requests, keeps a deadline, and always knows how the connection ended.
 *
 * The end is the hard part. PHP's feof() is true after a reset as well, and
 * the kernel tells of a reset only once: a buffered fread() that meets it
 * behind a last piece of data returns the data, swallows the reset, and the
 * next call looks like an orderly end. So PHP's read buffer is switched off
 * (each fread() is one recv(), false only for a reset or a time-out) and the
 * buffer is our own. stream_select() is avoided: it fails for descriptors
 * above 1023, which a large httpd has.
 *
 * A connection out of the pool (Pool.php) is the same thing, but for its end:
 * park() puts it back, and only when nothing is under way on it.
 */
final class Connection
{
    /* A write waits anew for each part the kernel takes; small pieces keep the
     * deadline honest with a server that drinks slowly. */
    private const WRITE_PIECE = 32768;

    private const READ_LEAST = 8192;
    private const READ_MOST = 262144;

    /* EAGAIN of connect() on a Unix socket: its backlog is full just now. */
    private const EAGAIN = 11;
    private const ETIMEDOUT = 110;
    private const ECONNREFUSED = 111;
    private const BACKLOG_PAUSE_US = 2000;

    private static ?\Closure $silence = null;

    /** @var resource|null */
    private $stream;

    private string $received = '';

    /** Did any byte ever arrive? Without one an orderly end is a "no" in sharedance's protocol. */
    private bool $answered = false;

    /** The process that opened it. A child made by fork() must keep its hands off. */
    private int $process;

    /** Its name in the pool, '' for one that is not pooled. */
    private string $pooled = '';

    /** Has an earlier request used it? Then its server may have gone since. */
    private bool $used = false;

    /** @param resource $stream */
    private function __construct($stream, int $process)
    {
        $this->stream = $stream;
        $this->process = $process;
        \stream_set_read_buffer($stream, 0);
        \stream_set_write_buffer($stream, 0);
    }

    public function __destruct()
    {
        $this->close();
    }

    /** A connection of this request's own. */
    public static function open(Dsn $dsn, Deadline $deadline): self
    {
        $context = \stream_context_create(['socket' => ['tcp_nodelay' => true]]);
        return new self(self::connect($dsn, $deadline, static function (?int &$errno, ?string &$error) use ($dsn, $deadline, $context) {
            return \stream_socket_client(
                $dsn->address(),
                $errno,
                $error,
                $deadline->left(),
                \STREAM_CLIENT_CONNECT,
                $context
            );
        }), (int) \getmypid());
    }

    /** The pooled connection if the address wants one and it is free, else one of this request's own. */
    public static function pooledOrOwn(Dsn $dsn, Deadline $deadline): self
    {
        $process = (int) \getmypid();
        $name = Pool::take($dsn, $process);
        if ($name === '') {
            return self::open($dsn, $deadline);
        }
        try {
            do {
                $stream = self::connect($dsn, $deadline, static function (?int &$errno, ?string &$error) use ($dsn, $process, $deadline) {
                    return Pool::stream($dsn, $process, $deadline->left(), $errno, $error);
                });
                $fit = Pool::claim($stream);
                if (!$fit) {
                    \fclose($stream);
                }
            } while (!$fit);
        } catch (\Throwable $trouble) {
            Pool::leave($name);
            throw $trouble;
        }
        $connection = new self($stream, $process);
        $connection->pooled = $name;
        $connection->used = Pool::isUsed($stream);
        return $connection;
    }

    /** @return resource */
    private static function connect(Dsn $dsn, Deadline $deadline, callable $call)
    {
        $errno = 0;
        $error = '';
        do {
            $stream = self::quietly(static function () use ($call, &$errno, &$error) {
                return $call($errno, $error);
            });
            if ($stream !== false) {
                return $stream;
            }
            /* PHP's own limit may be over a moment before ours */
            if ($deadline->hasPassed() || $errno === self::ETIMEDOUT) {
                throw $deadline->missed();
            }
            $busy = $dsn->isUnix() && $errno === self::EAGAIN;
            if ($busy) {
                \usleep(self::BACKLOG_PAUSE_US);
            }
        } while ($busy);
        throw SessiondException::of(
            SessiondException::UNREACHABLE,
            'cannot connect: ' . ($error !== '' ? $error : "error $errno")
            . ($errno === self::ECONNREFUSED ? ' (does httpd run there, with SessiondListen for this address?)' : '')
        );
    }

    /** Ends it. (fclose() ends a persistent stream, too.) */
    public function close(): void
    {
        if ($this->stream !== null) {
            $stream = $this->stream;
            $this->stream = null;
            /* In a child this closes the child's copy; the parent's goes on. */
            \fclose($stream);
            $this->leavePool();
        }
    }

    /**
     * Leaves a pooled connection to the next request. The caller knows that it
     * is this process's and that no answer is due; bytes that nobody asked for
     * close it.
     */
    public function park(): void
    {
        if ($this->pooled === '' || $this->stream === null || $this->received !== '') {
            $this->close();
            return;
        }
        Pool::markFree($this->stream);
        $this->stream = null;
        $this->leavePool();
    }

    private function leavePool(): void
    {
        if ($this->pooled !== '') {
            Pool::leave($this->pooled);
            $this->pooled = '';
        }
    }

    public function isOurs(): bool
    {
        return $this->process === \getmypid();
    }

    public function isPooled(): bool
    {
        return $this->pooled !== '';
    }

    public function isUsed(): bool
    {
        return $this->used;
    }

    public function hasAnswered(): bool
    {
        return $this->answered;
    }

    /** Are there bytes that nobody asked for? Then the two sides are out of step. */
    public function hasLeftovers(): bool
    {
        return $this->received !== '';
    }

    /** Has the other side ended it meanwhile, in order or not? Costs one poll(). */
    public function hasEnded(): bool
    {
        if ($this->stream === null) {
            return true;
        }
        if ($this->received !== '') {
            return false;
        }
        \stream_set_timeout($this->stream, 0, 0);
        return \feof($this->stream);
    }

    public function send(string $bytes, Deadline $deadline): void
    {
        $length = \strlen($bytes);
        for ($sent = 0; $sent < $length; $sent += $written) {
            $this->limit($deadline);
            \set_error_handler(self::$silence ??= static fn (): bool => true);
            try {
                $written = \fwrite($this->stream, $sent === 0 && $length <= self::WRITE_PIECE ? $bytes : \substr($bytes, $sent, self::WRITE_PIECE));
            } finally {
                \restore_error_handler();
            }
            if ($written === false || $written === 0) {
                if (\stream_get_meta_data($this->stream)['timed_out']) {
                    throw $deadline->missed();
                }
                throw $this->reset();
            }
        }
    }

    /** Exactly so many bytes, or an exception. */
    public function receive(int $length, Deadline $deadline): string
    {
        $bytes = $this->receiveUpTo($length, $deadline);
        if (\strlen($bytes) < $length) {
            throw SessiondException::of(
                SessiondException::CLOSED,
                $this->answered
                    ? 'the connection was closed in the middle of an answer'
                    : 'the connection was closed without an answer'
            );
        }
        return $bytes;
    }

    /** So many bytes, or fewer when an orderly end comes first. */
    public function receiveUpTo(int $length, Deadline $deadline): string
    {
        while (\strlen($this->received) < $length) {
            $bytes = $this->receiveSome($length - \strlen($this->received), $deadline);
            if ($bytes === '') {
                break;
            }
            $this->received .= $bytes;
        }
        if (\strlen($this->received) <= $length) {
            $bytes = $this->received;
            $this->received = '';
            return $bytes;
        }
        $bytes = \substr($this->received, 0, $length);
        $this->received = \substr($this->received, $length);
        return $bytes;
    }

    /** All bytes up to an orderly end; a reset is an exception, whatever came before it. */
    public function receiveToEnd(Deadline $deadline): string
    {
        $all = $this->received;
        $this->received = '';
        while (($bytes = $this->receiveSome(self::READ_MOST, $deadline)) !== '') {
            $all .= $bytes;
        }
        return $all;
    }

    /** One recv(); '' is the orderly end and nothing else. */
    private function receiveSome(int $wanted, Deadline $deadline): string
    {
        $room = \min(\max($wanted, self::READ_LEAST), self::READ_MOST);
        for (;;) {
            $this->limit($deadline);
            $bytes = \fread($this->stream, $room);
            if ($bytes !== false && $bytes !== '') {
                $this->answered = true;
                return $bytes;
            }
            $state = \stream_get_meta_data($this->stream);
            if ($state['timed_out']) {
                throw $deadline->missed();
            }
            if ($bytes === false) {
                throw $this->reset();
            }
            if ($state['eof']) {
                return '';
            }
            /* Neither data nor an end: interrupted. The deadline bounds this loop. */
        }
    }

    private function limit(Deadline $deadline): void
    {
        if ($this->stream === null) {
            throw SessiondException::of(SessiondException::CLOSED, 'the connection is closed');
        }
        $left = $deadline->left();
        \stream_set_timeout($this->stream, (int) $left, (int) (($left - (int) $left) * 1e6));
    }

    private function reset(): SessiondException
    {
        return SessiondException::of(
            SessiondException::RESET,
            $this->answered
                ? 'the connection was reset in the middle of an answer'
                : 'the connection was reset (is this host in SessiondAllow? a server that drains or is full does this too)'
        );
    }

    /**
     * Runs one call whose warning says nothing that its result does not, under
     * an error handler of its own: an application's handler may turn even
     * suppressed warnings into exceptions.
     *
     * @return mixed
     */
    private static function quietly(callable $call)
    {
        \set_error_handler(self::$silence ??= static fn (): bool => true);
        try {
            return $call();
        } finally {
            \restore_error_handler();
        }
    }
}
