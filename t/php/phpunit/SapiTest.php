<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

namespace Sessiond\Tests;

use PHPUnit\Framework\TestCase;

require_once __DIR__ . '/Web.php';

/**
 * SapiTest.php: pages as people run them: php -S, mod_php, php-fpm through
 * proxy_fcgi, on pooled connections, all with one session server. What only
 * whole web servers show: cookies, workers that live on, and many requests of
 * one user at once.
 */
final class SapiTest extends TestCase
{
    /** @return array<string, array{0: string}> */
    public function sapis(): array
    {
        return Web::sapis();
    }

    /** @dataProvider sapis */
    public function testASessionBeginsAndGoesOn(string $base): void
    {
        $first = Web::get($base);
        $this->assertSame('1', Web::count($first));
        $this->assertStringContainsString('module=user', $first[1]);
        $this->assertSame(1, preg_match('~^Set-Cookie: PHPSESSID=([^;]+)~mi', $first[2], $cookie), $first[2]);
        for ($n = 2; $n < 12; $n++) {
            $this->assertSame((string) $n, Web::count(Web::get($base, '', $cookie[1])));
        }
        $this->assertStringContainsString('n|i:11;', Web::stored($cookie[1]));
    }

    /** A session moves between all of them. */
    public function testAnyServerAnswers(): void
    {
        $id = Web::newId('moves');
        Web::store($id, 'n|i:0;');
        $n = 0;
        for ($round = 0; $round < 3; $round++) {
            foreach (Web::sapis() as [$base]) {
                $this->assertSame((string) ++$n, Web::count(Web::get($base, '', $id)));
            }
        }
    }

    /** @dataProvider sapis */
    public function testARenewedIdLeavesNothingBehind(string $base): void
    {
        $id = Web::newId('renew');
        Web::store($id, 'n|i:7;');
        $answer = Web::get($base, 'do=renew', $id);
        $this->assertSame('7', Web::count($answer));
        $this->assertSame(1, preg_match('~ id=(\S+)~', $answer[1], $new));
        $this->assertNotSame($id, $new[1]);
        $this->assertSame('', Web::stored($id));
        $this->assertSame('n|i:7;', Web::stored($new[1]));
        $this->assertSame('8', Web::count(Web::get($base, '', $new[1])));
        Web::get($base, 'do=destroy', $new[1]);
        $this->assertSame('', Web::stored($new[1]));
    }

    /** @dataProvider sapis */
    public function testAnUnknownIdIsReplacedAndNotLocked(string $base): void
    {
        $id = Web::newId('unknown');
        $answer = Web::get($base, '', $id);
        $this->assertSame('1', Web::count($answer));
        $this->assertStringNotContainsString($id, $answer[1]);
        $this->assertStringContainsString('Set-Cookie', $answer[2]);
        $this->assertSame('', Web::stored($id));
    }

    /**
     * 40 requests of one session at once, each holding it for 20 ms: each has
     * its turn, and no count is lost.
     *
     * @dataProvider sapis
     */
    public function testFortyRequestsOfOneSession(string $base): void
    {
        $id = Web::newId('forty');
        Web::store($id, 'n|i:0;');
        $begin = microtime(true);
        $sockets = [];
        for ($n = 0; $n < 40; $n++) {
            $sockets[] = Web::ask($base, 'hold=20', $id);
        }
        $counts = array_map(static fn ($socket) => Web::count(Web::answer($socket)), $sockets);
        $seconds = microtime(true) - $begin;
        sort($counts, SORT_NUMERIC);
        $this->assertSame(array_map('strval', range(1, 40)), $counts);
        $this->assertSame('n|i:40;', Web::stored($id));
        fprintf(STDERR, "# %s: 40 x 20 ms took %d ms\n", $base, (int) (1000 * $seconds));
    }

    /** Other users wait for nobody. @dataProvider sapis */
    public function testOtherSessionsDoNotWait(string $base): void
    {
        if (strpos($base, Web::env('SESSIOND_HTTP')) !== 0) {
            $this->markTestSkipped('a busy worker of php -S keeps others waiting by itself');
        }
        $id = Web::newId('slow');
        Web::store($id, 'n|i:0;');
        $slow = Web::ask($base, 'hold=3000', $id);
        $begin = microtime(true);
        for ($n = 0; $n < 5; $n++) {
            $this->assertSame('1', Web::count(Web::get($base)));
        }
        $this->assertLessThan(2.5, microtime(true) - $begin);
        $this->assertSame('1', Web::count(Web::answer($slow)));
    }

    /**
     * A worker that is killed, or a page that dies, gives the lock back at once,
     * not at the end of its lease (20 s here).
     *
     * @dataProvider sapis
     */
    public function testALockDiesWithItsWorker(string $base): void
    {
        foreach (['kill', 'fatal'] as $way) {
            if ($way === 'kill' && strpos($base, Web::env('SESSIOND_HTTP')) !== 0) {
                continue;    // php -S brings back no worker
            }
            $id = Web::newId('dies');
            Web::store($id, 'n|i:4;');
            $begin = microtime(true);
            Web::get($base, "do=$way", $id);
            $this->assertSame('5', Web::count(Web::get($base, '', $id)), $way);
            $this->assertLessThan(15, microtime(true) - $begin, $way);
        }
    }
}
