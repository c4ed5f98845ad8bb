<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

namespace Sessiond;

/**
 * Extended.php: mod_sessiond's own frames on one connection that stays.
 *
 *     'P' nonce(8)                                -> 'K' len nonce "mod_sessiond/<version> <features>"
 *     'G' keylen key                              -> 'V' len version(8) data | 'N' 0
 *     'W' keylen datalen ttl version(8) key data  -> 'K' 8 version(8) | 'B' 0 | 'E' len text
 *
 * Integers are 32-bit big-endian; a version is 8 opaque bytes. Every connection
 * begins with a hello, in one write with the first request, so it costs no
 * round trip. Its nonce proves that the answers belong to our questions. One
 * wrong byte and the two sides are out of step, so any trouble here ends the
 * connection; only an 'E' leaves it in step.
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

    /* 0: the server's SessiondExpiration. */
    private const TTL = 0;

    private Dsn $dsn;

    private ?Connection $connection = null;

    /** Has a server answered our hello in this request? Then it is no plain sharedanced. */
    private bool $known = false;

    public function __construct(Dsn $dsn)
    {
        $this->dsn = $dsn;
    }

    public function isKnown(): bool
    {
        return $this->known;
    }

    /** Is there a connection, and has a byte come over it? */
    public function hasAnswered(): bool
    {
        return $this->connection !== null && $this->connection->hasAnswered();
    }

    public function close(): void
    {
        if ($this->connection !== null) {
            $this->connection->close();
            $this->connection = null;
        }
    }

    /** The open connection, for a request that ends it (D); it is the caller's from now on. */
    public function release(): ?Connection
    {
        $connection = $this->connection;
        $this->connection = null;
        return $connection;
    }

    /** @return array{0: string, 1: string|null} version and data, (ABSENT, null) when there is none */
    public function get(string $key, Deadline $deadline): array
    {
        [$status, $body] = $this->request('G' . \pack('N', \strlen($key)) . $key, $deadline);
        if ($status === 'N' && $body === '') {
            return [self::ABSENT, null];
        }
        if ($status === 'V' && \strlen($body) >= self::VERSION) {
            return [\substr($body, 0, self::VERSION), \substr($body, self::VERSION)];
        }
        throw $this->unexpected('G', $status, $body);
    }

    /** The new version, or null when the one given is not the session's any more. */
    public function write(string $key, string $data, string $version, Deadline $deadline): ?string
    {
        $frame = 'W' . \pack('NNN', \strlen($key), \strlen($data), self::TTL) . $version . $key . $data;
        [$status, $body] = $this->request($frame, $deadline);
        if ($status === 'K' && \strlen($body) === self::VERSION) {
            return $body;
        }
        if ($status === 'B' && $body === '') {
            return null;
        }
        throw $this->unexpected('W', $status, $body);
    }

    /** @return array{0: string, 1: string} status and body */
    private function request(string $frame, Deadline $deadline): array
    {
        if ($this->connection === null) {
            $nonce = \random_bytes(self::NONCE);
            $this->connection = Connection::open($this->dsn, $deadline);
            $this->send('P' . $nonce . $frame, $deadline);
            $this->hello($nonce, $deadline);
        } elseif ($this->connection->hasLeftovers()) {
            throw SessiondException::of(SessiondException::MALFORMED, 'the server sent more than was asked for');
        } else {
            $this->send($frame, $deadline);
        }
        return $this->reply($deadline);
    }

    /**
     * A server that will not take a large value says so at once, reads on for
     * a moment and closes: the write fails, but the sentence is already here.
     */
    private function send(string $bytes, Deadline $deadline): void
    {
        try {
            $this->connection->send($bytes, $deadline);
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
        $this->known = true;
    }

    /** @return array{0: string, 1: string} status and body */
    private function reply(Deadline $deadline): array
    {
        $header = $this->connection->receive(self::HEADER, $deadline);
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
