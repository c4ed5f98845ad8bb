<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

namespace Sessiond;

/**
 * Extended.php: mod_sessiond's own frames on one connection that stays.
 *
 *     'P' nonce(8)                                -> 'K' len nonce "mod_sessiond/<version> <features>"
 *     'G' keylen key                              -> 'V' len version(8) data | 'N' 0
 *     'L' keylen wait_ms key                      -> the same, with the lock | 'B' 0
 *     'W' keylen datalen ttl version(8) key data  -> 'K' 8 version(8) | 'B' 0
 *     'T' keylen ttl key                          -> 'K' 0 | 'N' 0
 *     'U' keylen key                              -> 'K' 0 | 'N' 0
 *     'R' keylen key                              -> 'K' 0 | 'N' 0 | 'B' 0
 *
 * and 'E' len text in place of any of them. Integers are 32-bit big-endian; a
 * version is 8 opaque bytes. Each use of a connection begins with a hello, in
 * one write with the first request, so it costs no round trip. Its nonce proves
 * that the answers belong to our questions, and it takes back whatever lock an
 * earlier use left. One wrong byte and the two sides are out of step, so any
 * trouble here ends the connection; only an 'E' leaves it in step.
 */
final class Extended
{
    /** The version of a session that is not there. */
    public const ABSENT = "\0\0\0\0\0\0\0\0";

    private const HEADER = 5;
    private const NONCE = 8;
    private const VERSION = 8;

    /* Data is received as it arrives, never allocated by the announced length,
     * so this bounds nonsense, not memory. */
    private const MOST_VALUE = 0x7fffffff;
    private const MOST_TEXT = 65536;

    private Dsn $dsn;

    private ?Connection $connection = null;

    /** Has a server answered our hello in this request? Then it is no plain sharedanced. */
    private bool $known = false;

    private bool $greeted = false;

    private int $sent = 0;

    /** Does that server have locks? */
    private bool $locks = false;

    /** The key whose lock this connection holds, as far as we know. */
    private ?string $held = null;

    /** An unlock that goes out with the next request. */
    private string $unlock = '';

    /** Between the first byte of a request and the last of its answer. */
    private bool $underWay = false;

    public function __construct(Dsn $dsn)
    {
        $this->dsn = $dsn;
    }

    public function isKnown(): bool
    {
        return $this->known;
    }

    public function hasLocks(): bool
    {
        return $this->locks;
    }

    public function holds(string $key): bool
    {
        return $this->held === $key;
    }

    /** How many requests have been sent whole, repeated ones too. */
    public function sent(): int
    {
        return $this->sent;
    }

    /** Has the connection that is open, or was last, had its hello answered? */
    public function wasGreeted(): bool
    {
        return $this->greeted;
    }

    /** Is there a connection, and has a byte come over it? */
    public function hasAnswered(): bool
    {
        return $this->connection !== null && $this->connection->hasAnswered();
    }

    /** Ends the connection, and with it every lock. */
    public function close(): void
    {
        $connection = $this->connection;
        $this->connection = null;
        $this->held = null;
        $this->unlock = '';
        $this->underWay = false;
        if ($connection !== null) {
            $connection->close();
        }
    }

    /**
     * Leaves a pooled connection to the next request, closes any other. No
     * lock stays: a close ends them, and in the pool an unlock does.
     */
    public function finish(Deadline $deadline): void
    {
        $connection = $this->connection;
        if ($connection === null) {
            return;
        }
        if (!$connection->isPooled() || !$connection->isOurs() || $this->underWay) {
            $this->close();
            return;
        }
        if ($this->held !== null) {
            $this->unlockLater($this->held);
        }
        if ($this->unlock !== '') {
            try {
                $this->request('', $deadline);
            } catch (SessiondException $trouble) {
                $this->close();
                return;
            }
        }
        $this->connection = null;
        $connection->park();
    }

    /** The open connection, for a request that ends it (D); it is the caller's from now on. */
    public function release(): ?Connection
    {
        $connection = $this->underWay || $this->connection === null || !$this->connection->isOurs() ? null : $this->connection;
        if ($connection === null || $this->unlock !== '') {
            $this->close();
            return null;
        }
        $this->connection = null;
        $this->held = null;
        return $connection;
    }

    /** @return array{0: string, 1: string|null} version and data, (ABSENT, null) when there is none */
    public function get(string $key, Deadline $deadline): array
    {
        return $this->value('G', $this->request('G' . \pack('N', \strlen($key)) . $key, $deadline));
    }

    /**
     * Locks the key and gets its value, as get() does. Null: this server has no locks.
     *
     * @param float $wait seconds to wait in the queue
     * @param Deadline $patience for the answer, which may take all of that
     * @throws SessiondException (LOCKED) when that was not enough
     */
    public function lock(string $key, float $wait, Deadline $deadline, Deadline $patience): ?array
    {
        if ($this->known && !$this->locks) {
            return null;
        }
        if ($this->held !== null && $this->held !== $key) {
            $this->unlockLater($this->held);
        }
        $frame = 'L' . \pack('NN', \strlen($key), (int) \max(0, \round($wait * 1000))) . $key;
        $answer = $this->request($frame, $deadline, $patience);
        if ($answer === null) {
            return null;
        }
        if ($answer === ['B', '']) {
            throw SessiondException::of(SessiondException::LOCKED, 'another request holds its lock');
        }
        $value = $this->value('L', $answer);
        $this->held = $key;
        return $value;
    }

    /** Gives the lock back, in one write with the next request. */
    public function unlockLater(string $key): void
    {
        if ($this->held === $key) {
            $this->held = null;
            $this->unlock = 'U' . \pack('N', \strlen($key)) . $key;
        }
    }

    /** The new version, or null when it is not ours to write. The lock is given back in both cases. */
    public function write(string $key, string $data, string $version, Deadline $deadline): ?string
    {
        $frame = 'W' . \pack('NNN', \strlen($key), \strlen($data), $this->dsn->ttl()) . $version . $key . $data;
        [$status, $body] = $this->request($frame, $deadline);
        if ($status === 'K' && \strlen($body) === self::VERSION) {
            $this->forget($key);
            return $body;
        }
        if ($status === 'B') {
            $this->forget($key);
            return null;
        }
        throw $this->unexpected('W', $status, $body);
    }

    /** Renews the lifetime and gives the lock back; false: there is no such session. */
    public function touch(string $key, Deadline $deadline): bool
    {
        return $this->yesOrNo('T', $key, \pack('NN', \strlen($key), $this->dsn->ttl()) . $key, $deadline);
    }

    /** Removes the session and gives the lock back; null: another request holds the lock. */
    public function remove(string $key, Deadline $deadline): ?bool
    {
        return $this->yesOrNo('R', $key, \pack('N', \strlen($key)) . $key, $deadline);
    }

    private function yesOrNo(string $type, string $key, string $rest, Deadline $deadline): ?bool
    {
        [$status, $body] = $this->request($type . $rest, $deadline);
        if ($body === '' && ($status === 'K' || $status === 'N' || ($status === 'B' && $type === 'R'))) {
            if ($type !== 'T' || $status === 'K') { // a session that is not there keeps its lock: it is to be written
                $this->forget($key);
            }
            return $status === 'B' ? null : $status === 'K';
        }
        throw $this->unexpected($type, $status, $body);
    }

    private function forget(string $key): void
    {
        if ($this->held === $key) {
            $this->held = null;
        }
    }

    /**
     * @param array{0: string, 1: string} $answer
     * @return array{0: string, 1: string|null}
     */
    private function value(string $asked, array $answer): array
    {
        [$status, $body] = $answer;
        if ($status === 'N') {
            return [self::ABSENT, null];
        }
        if ($status === 'V') {
            return [\substr($body, 0, self::VERSION), \substr($body, self::VERSION)];
        }
        throw $this->unexpected($asked, $status, $body);
    }

    /**
     * Sends a frame, with a hello and an unlock before it where they are due,
     * and receives its answer.
     *
     * @return array{0: string, 1: string}|null status and body; null when it is
     *     an L and the server has no locks
     */
    private function request(string $frame, Deadline $deadline, ?Deadline $patience = null): ?array
    {
        /* A time limit may have jumped out of a request of ours; at the end of
         * such a page PHP calls us again, and nothing fits any more. And what
         * has ended while the page ran is better noticed before a write. */
        if ($this->connection !== null && ($this->underWay || !$this->connection->isOurs() || $this->connection->hasEnded())) {
            $this->close();
        }
        $isLock = $frame !== '' && $frame[0] === 'L';
        if ($this->connection === null) {
            $this->begin($frame, $deadline);
            if ($isLock && !$this->locks) {
                $this->close();    // it takes the L for a stranger's and hangs up
                return null;
            }
        } elseif ($this->connection->hasLeftovers()) {
            throw SessiondException::of(SessiondException::MALFORMED, 'the server sent more than was asked for');
        } else {
            $unlock = $this->unlock;
            $this->underWay = true;
            $this->send($unlock . $frame, $deadline);
            $this->unlock = '';
            if ($unlock !== '') {
                [$status, $body] = $this->reply($deadline);
                if ($status !== 'K' && $status !== 'N' || $body !== '') {
                    throw $this->unexpected('U', $status, $body);
                }
            }
        }
        $answer = ['K', ''];
        if ($frame !== '') {
            $answer = $patience === null ? $this->reply($deadline) : $this->lateReply($patience);
        }
        $this->underWay = false;
        return $answer;
    }

    /**
     * A connection that lay in the pool may have lost its server, or hold an
     * answer to somebody else. It gets half of the time to say hello; whatever
     * goes wrong, a new connection takes its place.
     */
    private function begin(string $frame, Deadline $deadline): void
    {
        $this->connection = Connection::pooledOrOwn($this->dsn, $deadline);
        if ($this->connection->isUsed()) {
            try {
                $this->greet($frame, $deadline->half());
                return;
            } catch (SessiondException $stale) {
                $this->close();
            }
            $this->connection = Connection::pooledOrOwn($this->dsn, $deadline);
        }
        $this->greet($frame, $deadline);
    }

    private function greet(string $frame, Deadline $deadline): void
    {
        $nonce = \random_bytes(self::NONCE);
        $this->greeted = false;
        $this->underWay = true;
        $this->send('P' . $nonce . $frame, $deadline);
        $this->hello($nonce, $deadline);
    }

    /**
     * A server that will not take a large value says so at once, reads on for
     * a moment and closes: the write fails, but the sentence is already here.
     */
    private function send(string $bytes, Deadline $deadline): void
    {
        try {
            $this->connection->send($bytes, $deadline);
            $this->sent++;
        } catch (SessiondException $failure) {
            if ($failure->isLostConnection()) {
                $this->throwRefusalBehind($failure, $deadline);
            }
            throw $failure;
        }
    }

    private function throwRefusalBehind(SessiondException $failure, Deadline $deadline): void
    {
        try {
            do {
                [$status, $body] = $this->reply($deadline);
            } while ($status === 'K');
        } catch (SessiondException $nothingThere) {
            throw $failure;
        }
        $this->close();    // part of the frame is still here
        throw $this->unexpected('W', $status, $body);
    }

    private function hello(string $nonce, Deadline $deadline): void
    {
        [$status, $body] = $this->reply($deadline);
        if ($status !== 'K') {
            throw $this->unexpected('P', $status, $body);
        }
        if (\strncmp($body, $nonce, self::NONCE) !== 0) {
            throw SessiondException::of(SessiondException::MALFORMED, 'the answer is not to our hello (wrong nonce)');
        }
        $greeting = \substr($body, self::NONCE);
        if (\preg_match('~^mod_sessiond/[!-\~]+(?: [!-\~]*)*$~D', $greeting) !== 1) {
            throw SessiondException::of(SessiondException::MALFORMED, 'the answer to our hello is not mod_sessiond\'s');
        }
        $this->known = $this->greeted = true;
        $this->locks = \in_array('lock', \explode(' ', $greeting), true);
    }

    /** @return array{0: string, 1: string} status and body */
    private function reply(Deadline $deadline): array
    {
        $header = $this->connection->receive(self::HEADER, $deadline);
        return $this->rest($header, $deadline);
    }

    /**
     * The answer to an L may be long in coming, but not in arriving.
     *
     * @return array{0: string, 1: string} status and body
     */
    private function lateReply(Deadline $patience): array
    {
        $status = $this->connection->receive(1, $patience);
        $deadline = new Deadline($this->dsn->timeout());
        return $this->rest($status . $this->connection->receive(self::HEADER - 1, $deadline), $deadline);
    }

    /** @return array{0: string, 1: string} status and body */
    private function rest(string $header, Deadline $deadline): array
    {
        $status = $header[0];
        $length = \unpack('N', $header, 1)[1];
        switch ($status) {
            case 'V':
                $sane = $length >= self::VERSION && $length <= self::MOST_VALUE;
                break;
            case 'K':
            case 'E':
                $sane = $length >= 0 && $length <= self::MOST_TEXT;
                break;
            default:
                $sane = ($status === 'N' || $status === 'B') && $length === 0;
        }
        if (!$sane) {
            throw SessiondException::of(
                SessiondException::MALFORMED,
                \sprintf('this is no answer of a session server: %s', \bin2hex($header))
            );
        }
        return [$status, $length === 0 ? '' : $this->connection->receive($length, $deadline)];
    }

    private function unexpected(string $asked, string $status, string $body): SessiondException
    {
        if ($status === 'E') {
            $text = \trim(\preg_replace('~[^ -\~]+~', ' ', \substr($body, 0, 300)));
            return SessiondException::of(SessiondException::REFUSED, 'the server refuses: ' . ($text === '' ? 'no reason given' : $text));
        }
        return SessiondException::of(
            SessiondException::MALFORMED,
            \sprintf('"%s" with %d bytes is no answer to "%s"', $status, \strlen($body), $asked)
        );
    }
}
