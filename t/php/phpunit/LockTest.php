<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

namespace Sessiond\Tests;

use PHPUnit\Framework\TestCase;
use Sessiond\SessiondException;
use Sessiond\SessiondHandler;

require_once __DIR__ . '/Web.php';

/**
 * LockTest.php: two handlers, which stand for two requests, and a real server
 * on which a lease lasts one second. Whoever has lost a lock must not write
 * once anybody else has been at the session: after the end of a lease, after
 * kill -9 of the session process, after a removal.
 */
final class LockTest extends TestCase
{
    private string $id;

    private SessiondHandler $a;

    private SessiondHandler $b;

    protected function setUp(): void
    {
        $this->id = Web::newId('lock');
        Web::store($this->id, 'first', true);
        $this->a = $this->handler();
        $this->b = $this->handler();
    }

    protected function tearDown(): void
    {
        $this->a->close();
        $this->b->close();
    }

    private function handler(string $options = ''): SessiondHandler
    {
        $handler = new SessiondHandler(Web::leaseDsn("&on_error=throw$options"));
        $handler->open('', 'PHPSESSID');
        return $handler;
    }

    private function refused(int $code, callable $call): void
    {
        try {
            $call();
        } catch (SessiondException $refusal) {
            $this->assertSame($code, $refusal->getCode(), $refusal->getMessage());
            return;
        }
        $this->fail('it was not refused');
    }

    public function testOneWaitsForTheOther(): void
    {
        $this->assertSame('first', $this->a->read($this->id));
        $impatient = $this->handler('&lock_wait=0.1');
        $this->refused(SessiondException::LOCKED, fn () => $impatient->read($this->id));
        $this->assertTrue($this->a->write($this->id, 'A'));
        $this->assertSame('A', $impatient->read($this->id));
        $impatient->close();
        $this->assertSame('A', $this->b->read($this->id), 'close() gives the lock back');
    }

    public function testTheEndOfALeaseFencesOff(): void
    {
        $this->a->read($this->id);
        $begin = microtime(true);
        $this->assertSame('first', $this->b->read($this->id), 'B has it at the end of the lease');
        $this->assertLessThan(10, microtime(true) - $begin);
        $this->assertTrue($this->b->write($this->id, 'B'));
        $this->refused(SessiondException::FENCED, fn () => $this->a->write($this->id, 'A'));
        $this->assertSame('B', Web::stored($this->id, true));
    }

    public function testWhileTheNextHoldsIt(): void
    {
        $this->a->read($this->id);
        $this->b->read($this->id);
        $this->refused(SessiondException::FENCED, fn () => $this->a->write($this->id, 'A'));
        $this->assertTrue($this->b->write($this->id, 'B'), 'B still has the lock');
        $this->assertSame('B', Web::stored($this->id, true));
    }

    public function testALeaseThatNobodyAskedForGoesOn(): void
    {
        $this->a->read($this->id);
        usleep(1500000);
        $this->assertTrue($this->a->write($this->id, 'A'));
        $this->assertSame('A', Web::stored($this->id, true));
    }

    public function testARemovedSessionIsNotRevived(): void
    {
        $this->a->read($this->id);
        $this->b->read($this->id);
        $this->assertTrue($this->b->destroy($this->id));
        $this->refused(SessiondException::REMOVED, fn () => $this->a->write($this->id, 'A'));
        $this->assertSame('', Web::stored($this->id, true));
        $this->a->read($this->id);
        $this->assertTrue($this->a->write($this->id, 'new'), 'but can be begun anew');
    }

    public function testAnUnchangedSessionThatIsGoneIsNoFailure(): void
    {
        $this->a->read($this->id);
        $this->b->read($this->id);
        $this->b->destroy($this->id);
        $this->assertTrue($this->a->updateTimestamp($this->id, 'first'));
        $this->assertSame('', Web::stored($this->id, true));
    }

    public function testANewSession(): void
    {
        $id = Web::newId('new');
        $this->assertSame('', $this->a->read($id));
        $this->assertTrue($this->a->updateTimestamp($id, ''), 'is stored though empty');
        $this->assertTrue($this->b->validateId($id), 'so that strict mode knows it');
    }

    public function testSomebodyElseBeganTheNewSession(): void
    {
        $id = Web::newId('new');
        $this->a->read($id);
        $this->b->read($id);
        $this->b->write($id, 'B');
        $this->refused(SessiondException::FENCED, fn () => $this->a->write($id, 'A'));
        $this->assertSame('B', Web::stored($id, true));
    }

    public function testKillOfTheSessionProcess(): void
    {
        $this->a->read($this->id);
        $this->killServer();
        $this->assertTrue($this->a->write($this->id, 'A'), 'nobody came: the version lets it through');
        $this->a->read($this->id);
        $this->killServer();
        $this->assertSame('A', $this->b->read($this->id), 'the lock is gone');
        $this->assertTrue($this->b->write($this->id, 'B'));
        $this->refused(SessiondException::FENCED, fn () => $this->a->write($this->id, 'late'));
        $this->assertSame('B', Web::stored($this->id, true));
        $this->a->read($this->id);
        $this->killServer();
        $this->b->read($this->id);
        $this->b->destroy($this->id);
        $this->refused(SessiondException::REMOVED, fn () => $this->a->write($this->id, 'late'));
        $this->assertSame('', Web::stored($this->id, true));
    }

    public function testAWaiterSurvivesAKill(): void
    {
        $this->a->read($this->id);
        $pid = pcntl_fork();
        if ($pid === 0) {
            $child = $this->handler();
            $ok = $child->read($this->id) === 'first' && $child->write($this->id, 'child');
            posix_kill(getmypid(), $ok ? SIGUSR1 : SIGUSR2);    // no PHPUnit at the end of a child
        }
        usleep(200000);
        $this->killServer();
        pcntl_waitpid($pid, $status);
        $this->assertSame(SIGUSR1, pcntl_wtermsig($status));
        $this->refused(SessiondException::FENCED, fn () => $this->a->write($this->id, 'A'));
        $this->assertSame('child', Web::stored($this->id, true));
    }

    public function testDestroyWaitsItsTurn(): void
    {
        $this->a->read($this->id);
        $this->b->read($this->id);    // a lease later
        $this->assertTrue($this->a->destroy($this->id));
        $this->refused(SessiondException::REMOVED, fn () => $this->b->write($this->id, 'B'));
        $this->assertSame('', Web::stored($this->id, true));
    }

    public function testTheLifetimeIsWhatWasAskedFor(): void
    {
        $short = $this->handler('&ttl=1');
        $id = Web::newId('short');
        $short->read($id);
        $short->write($id, 'for a second');
        $this->assertSame('for a second', $this->a->read($id));
        $this->a->close();
        $this->assertTrue(Web::eventually(static fn () => Web::stored($id, true) === ''));
        $this->assertSame('first', Web::stored($this->id, true), 'and others live on');
    }

    private function killServer(): void
    {
        $old = Web::status('Pid', true);
        posix_kill($old, SIGKILL);
        $this->assertTrue(Web::eventually(static function () use ($old): bool {
            $new = Web::status('Pid', true);
            return $new > 0 && $new !== $old;
        }));
    }
}
