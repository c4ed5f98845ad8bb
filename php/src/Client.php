<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

namespace Sessiond;

/**
 * Client.php: lock, read, write and remove one key, whichever server is there.
 *
 * mod_sessiond answers our hello; a plain sharedanced closes the connection in
 * order, and from then on this request speaks S, F and D with it, without
 * locks. Only that one sign counts, only before any server has answered, and
 * never on a Unix socket, where sharedanced does not live and where nobody can
 * send a reset. An earlier mod_sessiond says in its hello that it has no locks.
 *
 * A connection lost under a request is tried again on a new one: every request
 * here may be repeated. A lock is lost with its connection, and then the
 * version fences the write. A W that was executed already is refused when it
 * comes again; so when one that came again is refused, we look whether the data
 * that is there is ours.
 */
final class Client
{
    /** The version of a session that a plain sharedance holds: it knows none. */
    public const ANY = "\xff\xff\xff\xff\xff\xff\xff\xff";

    /* sharedance calls an empty value "none", so an empty session travels
     * there as a null under the empty name: nobody has that in a session, and
     * another client's PHP can decode it (most other bytes make it destroy the
     * session). */
    private const EMPTY_MARK = '|N;';

    private const ATTEMPTS = 3;

    private Dsn $dsn;

    private Extended $extended;

    private Plain $plain;

    private bool $isPlain = false;

    public function __construct(Dsn $dsn)
    {
        $this->dsn = $dsn;
        $this->extended = new Extended($dsn);
        $this->plain = new Plain($dsn);
    }

    public function deadline(): Deadline
    {
        return new Deadline($this->dsn->timeout());
    }

    /** Ends the connection, and with it every lock. */
    public function close(): void
    {
        $this->extended->close();
    }

    /** The session is over: no lock stays, and a pooled connection goes back. */
    public function finish(): void
    {
        $this->extended->finish($this->deadline());
    }

    /** Do requests of one session wait for each other here? Known after the first answer. */
    public function usesLocks(): bool
    {
        return !$this->isPlain && $this->dsn->wantsLocks() && $this->extended->hasLocks();
    }

    public function isPlain(): bool
    {
        return $this->isPlain;
    }

    /** Gives a lock back, in one write with the next request or at finish(). */
    public function unlock(string $key): void
    {
        $this->extended->unlockLater($key);
    }

    /**
     * Reads a session, with its lock if the server has locks.
     *
     * @return array{0: string, 1: string|null} as read()
     * @throws SessiondException (LOCKED) when another request kept it for all of lock_wait
     */
    public function lock(string $key): array
    {
        $deadline = $this->deadline();
        if (!$this->dsn->wantsLocks()) {
            return $this->read($key, $deadline);
        }
        $wait = $this->dsn->lockWait();
        $patience = new Deadline($wait + $this->dsn->timeout(), 'lock_wait+timeout');
        $end = \hrtime(true) + (int) ($wait * 1e9);
        $answer = $this->attempt($patience, function () use ($key, &$deadline, $patience, $end): ?array {
            if ($this->isPlain) {
                return null;
            }
            if ($this->extended->wasGreeted()) {
                $deadline = $this->deadline();    // a server that let us wait and went away has not used up its successor's time
            }
            try {
                return $this->extended->lock($key, ($end - \hrtime(true)) / 1e9, $deadline, $patience);
            } catch (SessiondException $trouble) {
                $this->fallBackOrThrow($trouble);
                return null;
            }
        });
        return $answer ?? $this->read($key, $deadline);
    }

    /** @return array{0: string, 1: string|null} version and data, (Extended::ABSENT, null) when there is none */
    public function read(string $key, Deadline $deadline): array
    {
        [$version, $data] = $this->attempt($deadline, function () use ($key, $deadline): array {
            if (!$this->isPlain) {
                try {
                    return $this->extended->get($key, $deadline);
                } catch (SessiondException $trouble) {
                    $this->fallBackOrThrow($trouble);
                }
            }
            $data = $this->plain->fetch($key, $deadline);
            return [$data === null ? Extended::ABSENT : self::ANY, $data];
        });
        return [$version, $data === self::EMPTY_MARK ? '' : $data];
    }

    /**
     * The new version, or null when the session is not ours to write. A plain
     * sharedance has no versions and always takes the write. Comes after a
     * read, which has found out what the server speaks.
     */
    public function write(string $key, string $data, string $version, Deadline $deadline): ?string
    {
        $before = $this->extended->sent();
        $written = $this->attempt($deadline, function () use ($key, $data, $version, $deadline): ?string {
            if (!$this->isPlain) {
                return $this->extended->write($key, $data, $version, $deadline);
            }
            $this->plain->store($key, $data === '' ? self::EMPTY_MARK : $data, $deadline);
            return self::ANY;
        });
        if ($written !== null || $this->extended->sent() < $before + 2) {
            return $written;
        }
        [$is, $there] = $this->read($key, $deadline);
        return $there === $data ? $is : null;
    }

    /** Renews a session's lifetime; false: there is none. Only for servers with locks. */
    public function touch(string $key, Deadline $deadline): bool
    {
        return $this->attempt($deadline, function () use ($key, $deadline): bool {
            return $this->extended->touch($key, $deadline);
        });
    }

    /**
     * Removes a session; that there is none is as good.
     *
     * When its lock is another request's by now, we wait for our turn: what
     * that one writes would bring the session back. Without locks there is no
     * turn to wait for.
     */
    public function remove(string $key, bool $wasThere, Deadline $deadline): void
    {
        if (!$this->isPlain && !$this->extended->isKnown()) {
            $this->read($key, $deadline);    // finds out who is there
        }
        if ($this->isPlain || !$this->extended->hasLocks()) {
            $this->removePlainly($key, $wasThere, $deadline);
            return;
        }
        if ($this->removeOrNull($key, $deadline) !== null) {
            return;
        }
        if (!$this->dsn->wantsLocks()) {
            $this->removePlainly($key, $wasThere, $deadline);
            return;
        }
        $this->lock($key);
        if ($this->removeOrNull($key, $this->deadline()) === null) {
            throw SessiondException::of(SessiondException::FENCED, 'another request took its lock before it could be removed');
        }
    }

    private function removeOrNull(string $key, Deadline $deadline): ?bool
    {
        return $this->attempt($deadline, function () use ($key, $deadline): ?bool {
            return $this->extended->remove($key, $deadline);
        });
    }

    /**
     * With a D, which says "no" by a mere close. When the session was seen in
     * this request, that is not taken for "there is none": an idle connection
     * that was closed hours ago ends in the same way.
     */
    private function removePlainly(string $key, bool $wasThere, Deadline $deadline): void
    {
        for ($round = 0; $round < 2; $round++) {
            $removed = $this->attempt($deadline, function () use ($key, $deadline): bool {
                return $this->plain->delete($key, $deadline, $this->extended->release());
            });
            if ($removed || !$wasThere || $this->read($key, $deadline)[1] === null) {
                return;
            }
        }
        throw SessiondException::of(
            SessiondException::CLOSED,
            'the server closed the connection without OK, and the session is still there'
        );
    }

    /** @return mixed what the call returns */
    private function attempt(Deadline $deadline, callable $call)
    {
        for ($left = self::ATTEMPTS - 1; ; $left--) {
            try {
                return $call();
            } catch (SessiondException $trouble) {
                if ($trouble->getCode() !== SessiondException::LOCKED) {
                    $this->close();
                }
                if (!$trouble->isLostConnection() || $left === 0 || $deadline->hasPassed()) {
                    throw $trouble;
                }
            }
        }
    }

    private function fallBackOrThrow(SessiondException $trouble): void
    {
        if (
            $trouble->getCode() !== SessiondException::CLOSED
            || $this->extended->isKnown()
            || $this->extended->hasAnswered()
            || $this->dsn->isUnix()
        ) {
            throw $trouble;
        }
        $this->close();
        $this->isPlain = true;
    }
}
