<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

namespace Sessiond;

/**
 * Deadline.php: one moment that a whole operation must not outlive.
 *
 * PHP's streams know only a time-out per system call, which a server that
 * dribbles a byte now and then never trips. So every operation (connect,
 * hello, request, reply, second attempts) shares one deadline, and each call
 * is given what is left of it. The clock is monotonic.
 */
final class Deadline
{
    private int $end;

    private float $seconds;

    private string $option;

    /** @param string $option what the limit comes from, for messages */
    public function __construct(float $seconds, string $option = 'timeout')
    {
        $this->seconds = $seconds;
        $this->option = $option;
        $this->end = \hrtime(true) + (int) ($seconds * 1e9);
    }

    /**
     * What is left in seconds, at least a millisecond: 0 would mean "do not
     * wait" to one of PHP's calls and "wait for ever" to another.
     *
     * @throws SessiondException when nothing is left
     */
    public function left(): float
    {
        $left = ($this->end - \hrtime(true)) / 1e9;
        if ($left <= 0) {
            throw $this->missed();
        }
        return \max($left, 0.001);
    }

    /** Half of what is left, for something that has a second attempt. */
    public function half(): self
    {
        return new self($this->left() / 2);
    }

    public function hasPassed(): bool
    {
        return \hrtime(true) >= $this->end;
    }

    public function missed(): SessiondException
    {
        return SessiondException::of(
            SessiondException::TIMEOUT,
            \sprintf('no complete answer within %s=%s s', $this->option, self::seconds($this->seconds))
        );
    }

    /** Seconds as a person writes them. */
    public static function seconds(float $seconds): string
    {
        return \rtrim(\rtrim(\sprintf('%.3f', $seconds), '0'), '.');
    }
}
