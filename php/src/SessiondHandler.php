<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

namespace Sessiond;

/**
 * SessiondHandler.php: PHP's session functions on top of the client.
 *
 * What is hard is PHP's side of it. A read that failed must make
 * session_start() fail, so it throws; '' would be a blank session that is
 * written over the user's data at the end of the request. A validateId() that
 * throws or returns false makes PHP replace the user's cookie by a new id, so
 * trouble met there is kept and thrown by the read() that follows. write() and
 * destroy() run in shutdown, where an exception helps nobody: they warn and
 * return false. The version that the read gave fences the write.
 */
class SessiondHandler implements
    \SessionHandlerInterface,
    \SessionIdInterface,
    \SessionUpdateTimestampHandlerInterface
{
    /* Each B means that another request's write came through, so this bounds
     * nothing but a server that is out of its mind; the deadline comes first. */
    private const MOST_CONFLICTS = 1000;

    private ?string $givenDsn;

    private string $dsnText = '';

    private ?Dsn $dsn = null;

    private ?Client $client = null;

    /** The id whose read succeeded; only that one may be written. */
    private ?string $id = null;

    private string $version = Extended::ABSENT;

    /** @var array{0: string, 1: array{0: string, 1: string|null}|SessiondException}|null the id and answer of validateId(), for the read that follows */
    private ?array $ahead = null;

    /** @var array<string, bool> ids made in this request => have they been read? */
    private array $ownIds = [];

    /** @param string|null $dsn where the server is; session.save_path when null */
    public function __construct(?string $dsn = null)
    {
        $this->givenDsn = $dsn;
        if ($dsn !== null) {
            $this->useDsn($dsn);
        }
    }

    /** Makes an instance PHP's session handler for this request. */
    public static function register(?string $dsn = null): bool
    {
        return \session_set_save_handler(new self($dsn), true);
    }

    /**
     * Connects to nobody yet: that the server is away shows at the read.
     *
     * @throws SessiondException (SETUP) when the DSN is wrong
     */
    public function open(string $path, string $name): bool
    {
        /* PHP skips close() after a read that threw. */
        $this->forget();
        $this->useDsn($this->givenDsn ?? $path);
        $length = (int) \ini_get('session.sid_length');
        $most = Key::MOST_BYTES - \strlen($this->dsn->prefix());
        if ($length > $most) {
            throw SessiondException::of(
                SessiondException::SETUP,
                \sprintf('session.sid_length is %d, but with this prefix an id may have at most %d bytes; lower it', $length, $most)
            );
        }
        return true;
    }

    public function close(): bool
    {
        $this->forget();
        if ($this->client !== null) {
            $this->client->close();
        }
        return true;
    }

    /**
     * The session's data, '' when there is no such session.
     *
     * @throws SessiondException on any trouble
     */
    public function read(string $id): string
    {
        $answer = $this->ahead !== null && $this->ahead[0] === $id ? $this->ahead[1] : null;
        $this->ahead = null;
        $this->id = null;
        if ($answer instanceof SessiondException) {
            throw $answer;
        }
        [$version, $data] = $answer ?? $this->fetch($id);
        $this->id = $id;
        $this->version = $version;
        if (isset($this->ownIds[$id])) {
            $this->ownIds[$id] = true;
        }
        return $data ?? '';
    }

    public function write(string $id, string $data): bool
    {
        try {
            $this->store($id, $data);
            return true;
        } catch (SessiondException $trouble) {
            return $this->warn('stored', $id, $trouble);
        }
    }

    /**
     * The session is unchanged; its lifetime counts from its last write, so it
     * is written again. When another request has written it meanwhile, that
     * has renewed it, and our copy must not replace theirs.
     */
    public function updateTimestamp(string $id, string $data): bool
    {
        try {
            $this->requireRead($id);
            $client = $this->client();
            $version = $client->write($this->key($id), $data, $this->version, $client->deadline());
            $this->version = $version ?? $this->version;
            return true;
        } catch (SessiondException $trouble) {
            return $this->warn('renewed', $id, $trouble);
        }
    }

    public function destroy(string $id): bool
    {
        $wasThere = $this->id !== $id || $this->version !== Extended::ABSENT;
        unset($this->ownIds[$id]);
        $this->forget();
        try {
            $client = $this->client();
            $client->remove($this->key($id), $wasThere, $client->deadline());
            return true;
        } catch (SessiondException $trouble) {
            return $this->warn('removed', $id, $trouble);
        }
    }

    /** The server expires sessions by itself. */
    public function gc(int $max_lifetime): int
    {
        return 0;
    }

    /** @throws SessiondException when PHP makes no id */
    public function create_sid(): string
    {
        $id = \session_create_id();
        if ($id === false) {
            throw SessiondException::of(SessiondException::SETUP, 'PHP made no session id');
        }
        $this->ownIds[$id] = false;
        return $id;
    }

    /**
     * Strict mode asks: may this id be used? Before the read of a session the
     * answer must be "yes" for a live one. For a new id of our own making PHP
     * asks the same to find collisions and wants a "no"; once it has been read
     * it is this request's session, stored or not yet.
     */
    public function validateId(string $id): bool
    {
        if (isset($this->ownIds[$id])) {
            return $this->ownIds[$id];
        }
        $this->ahead = null;
        try {
            if (Key::refusal($this->dsn()->prefix(), $id) !== null) {
                return false;
            }
            $answer = $this->fetch($id);
        } catch (SessiondException $trouble) {
            $this->ahead = [$id, $trouble];
            return true;
        }
        if ($answer[1] === null) {
            return false;
        }
        $this->ahead = [$id, $answer];
        return true;
    }

    /** @return array{0: string, 1: string|null} */
    private function fetch(string $id): array
    {
        $key = $this->key($id);
        try {
            $client = $this->client();
            return $client->read($key, $client->deadline());
        } catch (SessiondException $trouble) {
            throw SessiondException::of(
                $trouble->getCode(),
                \sprintf(
                    'session %s cannot be read from %s: %s',
                    Key::mask($id),
                    $this->dsn()->address(),
                    $trouble->getMessage()
                )
            );
        }
    }

    /**
     * Two requests of one user that overlap: the last writer wins, as with
     * every handler that has no locks. So on a conflict the write is repeated
     * upon the version that is there now. Never upon "absent": a session that
     * another request removed (a log-out) must not come back.
     */
    private function store(string $id, string $data): void
    {
        $this->requireRead($id);
        $key = $this->key($id);
        $client = $this->client();
        $deadline = $client->deadline();
        $version = $this->version;
        for ($conflicts = 0; $conflicts < self::MOST_CONFLICTS; $conflicts++) {
            $written = $client->write($key, $data, $version, $deadline);
            if ($written !== null) {
                $this->version = $written;
                return;
            }
            [$version, $there] = $client->read($key, $deadline);
            if ($there === null) {
                throw SessiondException::of(
                    SessiondException::REMOVED,
                    'another request has removed it meanwhile, and it stays removed'
                );
            }
        }
        throw SessiondException::of(SessiondException::MALFORMED, 'the server refuses the very version that it gives');
    }

    private function requireRead(string $id): void
    {
        if ($this->id !== $id) {
            throw SessiondException::of(
                SessiondException::SETUP,
                'it was not read before in this request, or that read failed, so a write might destroy data'
            );
        }
    }

    private function key(string $id): string
    {
        $prefix = $this->dsn()->prefix();
        $refusal = Key::refusal($prefix, $id);
        if ($refusal !== null) {
            throw SessiondException::of(SessiondException::NOT_ALLOWED, $refusal);
        }
        return $prefix . $id;
    }

    private function useDsn(string $text): void
    {
        if ($this->dsn !== null && $this->dsnText === $text) {
            return;
        }
        $this->dsn = new Dsn($text);
        $this->dsnText = $text;
        $this->client = new Client($this->dsn);
    }

    private function dsn(): Dsn
    {
        if ($this->dsn === null) {
            throw SessiondException::of(SessiondException::SETUP, 'the session handler is not open');
        }
        return $this->dsn;
    }

    private function client(): Client
    {
        $this->dsn();
        return $this->client;
    }

    private function forget(): void
    {
        $this->id = null;
        $this->version = Extended::ABSENT;
        $this->ahead = null;
    }

    private function warn(string $what, string $id, SessiondException $trouble): bool
    {
        $where = $this->dsn === null ? '' : ' at ' . $this->dsn->address();
        \trigger_error(
            \sprintf('session %s was not %s%s: %s', Key::mask($id), $what, $where, $trouble->getMessage()),
            \E_USER_WARNING
        );
        return false;
    }
}
