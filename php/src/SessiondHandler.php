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
 * return false. PHP calls no close() once something has thrown, so whoever
 * throws gives the lock back first. The version that the read gave fences the
 * write when the lock was lost. Ids and data are marked as sensitive, since PHP
 * 8.2 and later leave those out of the stack traces that end up in logs.
 */
class SessiondHandler implements
    \SessionHandlerInterface,
    \SessionIdInterface,
    \SessionUpdateTimestampHandlerInterface
{
    /* Without locks each B means that another request's write came through, so
     * this bounds nothing but a server that is out of its mind. */
    private const MOST_CONFLICTS = 1000;

    /* Frames between session_start() and us: a framework's proxies. */
    private const MOST_FRAMES = 12;

    /* Bytes: enough to call a method and to close a stream. */
    private const RESERVE = 65536;

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

    /** Have the page's own shutdown functions had their turn? */
    private bool $isLast = false;

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
        $handler = new self($dsn);
        if (!\session_set_save_handler($handler, false)) {
            return false;
        }
        \register_shutdown_function([$handler, 'endOfRequest'], \str_repeat("\0", self::RESERVE));
        return true;
    }

    /**
     * Stores the session, as PHP does at the end. But when that fails badly (an
     * object that throws while it is encoded, a page that has used up its
     * memory) PHP calls us no more, and a pooled connection would keep the lock.
     * So we come before PHP, but behind the page's own shutdown functions, which
     * may still want the session.
     *
     * @param string $reserve memory that is free for this
     */
    public function endOfRequest(string $reserve = ''): void
    {
        $last = \error_get_last();
        $isFull = $last !== null && $last['type'] === \E_ERROR
            && \preg_match('~^(?:Allowed memory size|Out of memory)~', $last['message']) === 1;
        if (!$isFull && !$this->isLast) {
            $this->isLast = true;
            \register_shutdown_function([$this, 'endOfRequest'], $reserve);
            return;
        }
        $reserve = '';
        if ($isFull && $this->dsn !== null && $this->dsn->isPersistent()) {
            $this->client->close();
        }
        try {
            \session_write_close();
        } catch (\Throwable $trouble) {
            $this->finish();
            throw $trouble;
        }
    }

    /**
     * Connects to nobody yet: that the server is away shows at the read.
     *
     * @throws SessiondException (SETUP) when the DSN is wrong
     */
    public function open(string $path, string $name): bool
    {
        /* session_reset() opens and reads again without a close: the lock stays. */
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
        $this->finish();
        return true;
    }

    /**
     * The session's data, '' when there is no such session. False, after a
     * warning, only with on_error=warn: then session_start() is false.
     *
     * @throws SessiondException on any trouble
     */
    public function read(#[\SensitiveParameter] string $id): string|false
    {
        $answer = $this->ahead !== null && $this->ahead[0] === $id ? $this->ahead[1] : null;
        $this->ahead = null;
        $this->id = null;
        try {
            if ($answer instanceof SessiondException) {
                throw $answer;
            }
            [$version, $data] = $answer ?? $this->fetch($id);
        } catch (SessiondException $trouble) {
            $this->finish();
            if ($this->dsn === null || $this->dsn->readsThrow()) {
                throw $trouble;
            }
            \trigger_error($trouble->getMessage(), \E_USER_WARNING);
            return false;
        }
        $this->id = $id;
        $this->version = $version;
        if (isset($this->ownIds[$id])) {
            $this->ownIds[$id] = true;
        }
        $this->tellOfMissingLocks();
        return $data ?? '';
    }

    public function write(#[\SensitiveParameter] string $id, #[\SensitiveParameter] string $data): bool
    {
        try {
            $this->store($id, $data);
            return true;
        } catch (SessiondException $trouble) {
            return $this->complain('stored', $id, $trouble);
        }
    }

    /**
     * The session is unchanged, and so its lifetime is renewed. Where there
     * was none it is stored, empty or not: in strict mode an id without a
     * session would be replaced at the next request. One that another request
     * removed meanwhile stays removed, and that is no failure.
     */
    public function updateTimestamp(#[\SensitiveParameter] string $id, #[\SensitiveParameter] string $data): bool
    {
        try {
            $this->requireRead($id);
            $client = $this->client();
            $key = $this->key($id);
            if (!$client->usesLocks()) {
                /* Written again. When another request has written it, that has
                 * renewed it, and our copy must not replace theirs. */
                $version = $client->write($key, $data, $this->version, $client->deadline());
                $this->version = $version ?? $this->version;
            } elseif ($this->version === Extended::ABSENT || !$client->touch($key, $client->deadline())) {
                $this->store($id, $data);
            }
            return true;
        } catch (SessiondException $trouble) {
            return $trouble->getCode() === SessiondException::REMOVED || $this->complain('renewed', $id, $trouble);
        }
    }

    public function destroy(#[\SensitiveParameter] string $id): bool
    {
        $wasThere = $this->id !== $id || $this->version !== Extended::ABSENT;
        unset($this->ownIds[$id]);
        $this->forget();
        try {
            $client = $this->client();
            $client->remove($this->key($id), $wasThere, $client->deadline());
            return true;
        } catch (SessiondException $trouble) {
            return $this->complain('removed', $id, $trouble);
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
    public function validateId(#[\SensitiveParameter] string $id): bool
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
            $this->client->unlock($this->key($id));
            return false;
        }
        $this->ahead = [$id, $answer];
        return true;
    }

    /** @return array{0: string, 1: string|null} */
    private function fetch(#[\SensitiveParameter] string $id): array
    {
        $key = $this->key($id);
        try {
            $client = $this->client();
            $answer = $this->isReadOnly() ? $client->read($key, $client->deadline()) : $client->lock($key);
        } catch (SessiondException $trouble) {
            throw SessiondException::of(
                $trouble->getCode(),
                \sprintf(
                    'session %s cannot be read from %s: %s',
                    Key::mask($id),
                    $this->dsn()->address(),
                    $trouble->getCode() === SessiondException::LOCKED
                        ? \sprintf('another request has held its lock for all of lock_wait=%s s', Deadline::seconds($this->dsn()->lockWait()))
                        : $trouble->getMessage()
                )
            );
        }
        return $answer;
    }

    /** Not before the read: an error handler may throw, and in validateId() that would cost the user his id. */
    private function tellOfMissingLocks(): void
    {
        if ($this->client()->isPlain() && $this->dsn()->wantsLocks() && Pool::isFirst('plain ' . $this->dsn()->address())) {
            \trigger_error(
                \sprintf(
                    '%s is a plain sharedance server, which has no session locks: two requests of one user overwrite each other'
                        . ' (lock=off in session.save_path, if that is meant)',
                    $this->dsn()->address()
                ),
                \E_USER_NOTICE
            );
        }
    }

    /**
     * With read_and_close there is no write, so there is nothing to wait for.
     * PHP does not tell a handler, but the arguments are on the stack.
     */
    private function isReadOnly(): bool
    {
        foreach (\debug_backtrace(0, self::MOST_FRAMES) as $frame) {
            if ($frame['function'] === 'session_start' && !isset($frame['class'])) {
                $options = $frame['args'][0] ?? null;
                return \is_array($options) && (int) ($options['read_and_close'] ?? 0) > 0;
            }
        }
        return false;
    }

    private function store(#[\SensitiveParameter] string $id, #[\SensitiveParameter] string $data): void
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
            [$is, $there] = $client->read($key, $deadline);
            $version = $this->versionToTryNext($version, $is, $there);
        }
        throw SessiondException::of(SessiondException::MALFORMED, 'the server refuses the very version that it gives');
    }

    /**
     * After a refused write. With locks it was not ours any more, and that is
     * the end of it. Without, the last writer wins, so the write is repeated
     * upon what is there now, but never upon "absent": a session that another
     * request removed (a log-out) must not come back.
     */
    private function versionToTryNext(string $tried, string $is, ?string $there): string
    {
        if ($there === null && ($tried !== Extended::ABSENT || !$this->client()->usesLocks())) {
            throw SessiondException::of(
                SessiondException::REMOVED,
                'another request has removed it meanwhile, and it stays removed'
            );
        }
        if ($this->client()->usesLocks()) {
            throw SessiondException::of(
                SessiondException::FENCED,
                'its lock was lost, and another request has taken the session over; that one\'s work stays'
            );
        }
        if ($is === $tried) {
            throw SessiondException::of(SessiondException::LOCKED, 'another request holds its lock');
        }
        return $is;
    }

    private function requireRead(#[\SensitiveParameter] string $id): void
    {
        if ($this->id !== $id) {
            throw SessiondException::of(
                SessiondException::SETUP,
                'it was not read before in this request, or that read failed, so a write might destroy data'
            );
        }
    }

    private function key(#[\SensitiveParameter] string $id): string
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

    /** No lock stays, and the connection goes back to where it came from. */
    private function finish(): void
    {
        if ($this->client !== null) {
            $this->client->finish();
        }
    }

    private function complain(string $what, #[\SensitiveParameter] string $id, SessiondException $trouble): bool
    {
        $where = $this->dsn === null ? '' : ' at ' . $this->dsn->address();
        $message = \sprintf('session %s was not %s%s: %s', Key::mask($id), $what, $where, $trouble->getMessage());
        if ($this->dsn !== null && $this->dsn->writesThrow()) {
            $this->finish();
            throw SessiondException::of($trouble->getCode(), $message);
        }
        \trigger_error($message, \E_USER_WARNING);
        return false;
    }
}
