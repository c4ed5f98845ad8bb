#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# lock.t: requests of one user wait for each other. PHP's calls in the order in
# which it really makes them, and what each sends: one round trip to start, one
# to end, and no lock left by any way out of a page. Then the ways a lock is
# lost (the end of its lease, of its connection, of the server), after which a
# write must be refused as soon as anybody else has been at the session.
use v5.36;
use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/lib';
use Test::More;
use FakeServer;
use PhpTest;
use Sessiond::Test::Net qw(now nap);

plan skip_all => 'no php' unless php_binary();

my $ID    = 'lock-0123456789abcdefghij';
my $LONG  = '?timeout=60';
my $OLD   = 'n|i:41;';
my $COUNT = '$_SESSION["n"] = ($_SESSION["n"] ?? 0) + 1; echo "n=", $_SESSION["n"], "\n";';

sub types ($server) { return $server->frames =~ s/\d+://gr }

# A page in the background; its output when asked for.
sub begin ($dsn, $id, $code, %ini) {
    my $pid = open(my $page, '-|') // die "fork: $!\n";
    return sub { my $out = join '', <$page>; close $page; return $out }
        if $pid;
    my $got = page($dsn, $id, $code, %ini);
    print "$got->{out}$got->{err}";
    close STDOUT;
    POSIX::_exit(0);
}

sub wait_until ($condition, $what) {
    my $until = now() + 60;
    nap(0.005) until $condition->() || now() > $until;
    return ok($condition->(), $what);
}

# name, code, strict mode, frames with locks, frames from the pool, there before?
# (No session_start() in the code: page() has it.)
for my $case (
    [ 'a change',               $COUNT, 'P L W' ],
    [ 'no change',              '', 'P L T' ],
    [ 'a new session',          $COUNT, 'P L W', new => 1 ],
    [ 'an empty new session',   '', 'P L W', new => 1 ],
    [ 'session_abort',          'session_abort();', 'P L', 'P L U' ],
    [ 'session_reset',          '$_SESSION["n"] = 7; session_reset();', 'P L L T' ],
    [ 'session_destroy',        'session_destroy();', 'P L R' ],
    [ 'twice',                  "$COUNT session_write_close(); session_start(); $COUNT", 'P L W P L W' ],
    [ 'regenerate_id',          'session_regenerate_id();', 'P L W P L W', stores => 1 ],
    [ 'regenerate_id(true)',    'session_regenerate_id(true);', 'P L R P L W', stores => 1 ],
    [ 'regenerate_id, abort',   'session_regenerate_id(true); session_abort();', 'P L R P L', 'P L R P L U' ],
    [ 'exit',                   "$COUNT exit;", 'P L W' ],
    )
{
    my ($name, $code, $frames, @more) = @$case;
    my $pooled_frames = @more % 2 ? shift @more : undef;
    my %opt = @more;
    for my $strict (0, 1) {
        next if $opt{new} && $strict;
        for my $pool ('', '&persistent=on') {
            my $server = FakeServer->start;
            $server->put($ID, $OLD) unless $opt{new};
            my $label = "$name, strict $strict$pool";
            my $got = page($server->dsn("$LONG$pool"), $ID, "$code; if (0) { }", 'session.use_strict_mode' => $strict);
            is($got->{err}, '', "$label: no complaint");
            is(types($server), $pool && $pooled_frames ? $pooled_frames : $frames, "$label: frames");
            is(join(' ', $server->held), '', "$label: no lock is left");
            is(scalar($server->keys), $opt{stores} && $name =~ /true/ ? 1 : $opt{stores} ? 2 : $name =~ /destroy|abort.*|regen.*abort/ && $name !~ /^session_abort/ ? 0 : 1,
                "$label: as many sessions as there should be");
        }
    }
}

subtest 'an unknown id in strict mode' => sub {
    my $server = FakeServer->start;
    my $got = page($server->dsn($LONG), $ID, 'echo session_id() === "' . $ID . '" ? "same" : "new";', 'session.use_strict_mode' => 1);
    is($got->{out}, 'new', 'gets another id');
    is(types($server), 'P L U L W', 'and is unlocked');
    is(join(' ', $server->held), '', 'no lock is left');
    is($server->value($ID), undef, 'nothing is stored under it');
};

subtest 'lifetimes' => sub {
    my $server = FakeServer->start->put($ID, $OLD);
    page($server->dsn($LONG), $ID, $COUNT, 'session.gc_maxlifetime' => 777);
    is($server->ttl($ID), 777, 'a write asks for session.gc_maxlifetime');
    page($server->dsn($LONG), $ID, '', 'session.gc_maxlifetime' => 778);
    is($server->ttl($ID), 778, 'so does a touch');
    page($server->dsn("$LONG&ttl=60"), $ID, $COUNT);
    is($server->ttl($ID), 60, 'or for ttl');
    page($server->dsn("$LONG&ttl=0"), $ID, $COUNT);
    is($server->ttl($ID), 0, 'or for the server\'s own');
};

subtest 'a queue' => sub {
    my $server = FakeServer->start->put($ID, $OLD);
    my $folder = File::Temp->newdir('sessiond-XXXXXX', DIR => '/tmp');
    my $first  = begin($server->dsn($LONG), $ID, "touch('$folder/in'); while (!file_exists('$folder/out')) usleep(2000); $COUNT");
    wait_until(sub { -e "$folder/in" }, 'the first page is in its session');
    my @others;
    for my $n (1 .. 5) {
        push @others, begin($server->dsn($LONG), $ID, $COUNT, 'session.use_strict_mode' => $n % 2);
        wait_until(sub { $server->waiting == $n }, "$n wait");
    }
    my $other_user = page($server->dsn($LONG), 'another-0123456789abcdef', $COUNT);
    is($other_user->{out}, "n=1\n", 'another session does not wait');
    my $reader = php("session_id('$ID'); session_start(['read_and_close' => true]); echo \$_SESSION['n'];", 'session.save_path' => $server->dsn($LONG));
    is($reader->{out}, '41', 'nor does read_and_close');
    open my $signal, '>', "$folder/out" or die $!;
    is($first->(), "n=42\n", 'the first ends');
    is($others[ $_ - 1 ]->(), 'n=' . (42 + $_) . "\n", "number $_ has its turn") for 1 .. 5;
    is($server->value($ID), 'n|i:47;', 'no count is lost');
};

subtest 'lock_wait is over' => sub {
    my $server = FakeServer->start(hook => do { my $n = 0; sub ($s, $f) { $s->take_lock($f->{key}) if $f->{type} eq 'L' && !$n++; return } })->put($ID, $OLD);
    for my $strict (0, 1) {
        my $got = page($server->dsn("$LONG&lock_wait=0.3"), $ID, $COUNT, 'session.use_strict_mode' => $strict);
        like($got->{out}, qr/\Athrew Sessiond\\SessiondException\(10\): session lock\.\.\. cannot be read from \S+: another request has held its lock for all of lock_wait=0\.3 s\n\z/,
            "strict $strict: session_start() throws, and says what");
        is($got->{err}, '', "strict $strict: nothing else");
        cmp_ok($got->{seconds}, '>=', 0.3, "strict $strict: not before");
    }
    my $got = page($server->dsn("$LONG&lock_wait=0"), $ID, $COUNT);
    like($got->{out}, qr/\(10\): .*lock_wait=0 s/, 'lock_wait=0: at once');
    $got = page($server->dsn("$LONG&lock_wait=0.2&on_error=warn"), $ID, 'var_dump(session_status());');
    is($got->{out}, "int(1)\n", 'on_error=warn: session_start() is false, and the page goes on');
    like($got->{err}, qr/^Warning: session lock\.\.\. cannot be read.*Warning: session_start\(\): Failed to read session data/s, 'with warnings');
    is($server->value($ID), $OLD, 'nothing was written');
    $server->end_lease($ID);
    is(page($server->dsn($LONG), $ID, $COUNT)->{out}, "n=42\n", 'afterwards all is well');

    my $off = FakeServer->start(hook => sub ($s, $f) { $s->take_lock($f->{key}) if $f->{type} eq 'W'; return })->put($ID, $OLD);
    $got = page($off->dsn("$LONG&lock=off"), $ID, $COUNT);
    like($got->{err}, qr/was not stored .*another request holds its lock/, 'lock=off: a write while another holds it is refused, once');
    is($off->types, 'PGWG', 'and not tried for ever');
};

# --- a lock that was lost -------------------------------------------------------

# At the first frame of a type, does something as another client would.
sub at ($types, $what) {
    my $done = 0;
    return sub ($server, $frame) {
        return if $done || index($types, $frame->{type}) < 0;
        $done = 1;
        return $what->($server, $frame);
    };
}
my $others_work = sub ($server, $f) { $server->free_lock($ID); $server->set($ID, 'other|i:1;'); return };
my $removed     = sub ($server, $f) { $server->free_lock($ID); $server->unset($ID); return };

# name, what happens at the write, there before?, what is stored then, what the warning says
for my $case (
    [ 'the lease ended, nobody came',        sub ($s, $f) { $s->free_lock($ID); return }, 1, 'n|i:42;' ],
    [ 'another has the lock',                sub ($s, $f) { $s->take_lock($ID); return }, 1, $OLD, qr/lock was lost, and another request has taken the session over/ ],
    [ 'another has the lock of a new one',   sub ($s, $f) { $s->take_lock($ID); return }, 0, undef, qr/lock was lost/ ],
    [ 'another wrote',                       $others_work, 1, 'other|i:1;', qr/lock was lost/ ],
    [ 'another wrote a new one',             $others_work, 0, 'other|i:1;', qr/lock was lost/ ],
    [ 'another removed it',                  $removed, 1, undef, qr/removed it meanwhile, and it stays removed/ ],
    [ 'the server was killed',               sub ($s, $f) { $s->lose_locks; ['keep'] }, 1, 'n|i:42;' ],
    [ 'killed, and another wrote',           sub ($s, $f) { $s->lose_locks; $s->set($ID, 'other|i:1;'); ['keep'] }, 1, 'other|i:1;', qr/lock was lost/ ],
    [ 'killed, and another has the lock',    sub ($s, $f) { $s->lose_locks; $s->take_lock($ID); ['keep'] }, 1, $OLD, qr/lock was lost/ ],
    [ 'killed, and another removed it',      sub ($s, $f) { $s->lose_locks; $s->unset($ID); ['keep'] }, 1, undef, qr/stays removed/ ],
    [ 'a reset',                             sub ($s, $f) { ['reset'] }, 1, 'n|i:42;' ],
    [ 'stored, but the answer is lost',      sub ($s, $f) { $s->set(@$f{qw(key data)}); ['reset'] }, 1, 'n|i:42;' ],
    )
{
    my ($name, $what, $there, $stored, $warning) = @$case;
    for my $pool ('', '&persistent=on') {
        my $server = FakeServer->start(hook => at('W', $what));
        $server->put($ID, $OLD) if $there;
        my $got = page($server->dsn("$LONG$pool"), $ID, '$_SESSION["n"] = 42; session_write_close(); echo "goes on\n";');
        is($got->{out}, "goes on\n", "$name$pool: the page goes on");
        is($server->value($ID), $stored, "$name$pool: what is stored");
        if ($warning) { like($got->{err}, qr/^Warning: session lock\.\.\. was not stored at tcp:\S+: .*$warning/m, "$name$pool: a warning") }
        else          { is($got->{err}, '', "$name$pool: no warning") }
        is(join(' ', $server->held), $name =~ /has the lock/ ? $ID : '', "$name$pool: no lock is left of ours");
    }
}

# The same for a page that changed nothing: no complaint, and nothing comes back.
for my $case (
    [ 'another has the lock', sub ($s, $f) { $s->take_lock($ID); return }, $OLD ],
    [ 'another wrote',        $others_work, 'other|i:1;' ],
    [ 'another removed it',   $removed, undef ],
    [ 'a reset',              sub ($s, $f) { ['reset'] }, $OLD ],
    )
{
    my ($name, $what, $stored) = @$case;
    my $server = FakeServer->start(hook => at('T', $what))->put($ID, $OLD);
    my $got = page($server->dsn($LONG), $ID, 'var_dump(session_write_close());');
    is("$got->{out}$got->{err}", "bool(true)\n", "unchanged, $name: nothing to complain about");
    is($server->value($ID), $stored, "unchanged, $name: what is stored");
}

subtest 'session_destroy when another has the lock' => sub {
    my $server = FakeServer->start(hook => at('R', sub ($s, $f) { $s->take_lock($ID); return }))->put($ID, $OLD);
    my $out = begin($server->dsn($LONG), $ID, 'var_dump(session_destroy());');
    wait_until(sub { $server->waiting == 1 }, 'it waits its turn');
    $server->end_lease($ID);
    is($out->(), "bool(true)\n", 'is true');
    is(types($server), 'P L R L R', 'R, then L and R');
    is($server->value($ID), undef, 'the session is removed');
    is(join(' ', $server->held), '', 'no lock is left');
};

subtest 'killed while it waits' => sub {
    my $server = FakeServer->start->put($ID, $OLD);
    my $folder = File::Temp->newdir('sessiond-XXXXXX', DIR => '/tmp');
    my $holder = begin($server->dsn($LONG), $ID, "touch('$folder/in'); while (!file_exists('$folder/out')) usleep(2000); $COUNT");
    wait_until(sub { -e "$folder/in" }, 'a page is in its session');
    my $waiter = begin($server->dsn($LONG), $ID, $COUNT);
    wait_until(sub { $server->waiting == 1 }, 'another waits');
    $server->lose;
    is($waiter->(), "n=42\n", 'after a kill -9 of the server it asks again, and has it');
    open my $signal, '>', "$folder/out" or die $!;
    like($holder->(), qr/^n=42\n.*was not stored .*lock was lost/s, 'the one that held it is refused');
    is($server->value($ID), 'n|i:42;', 'the other\'s work stands');
};

subtest 'on_error=throw' => sub {
    for my $pool ('', '&persistent=on') {
        my $server = FakeServer->start(hook => sub ($s, $f) { $f->{type} eq 'W' ? [ 'keep', FakeServer::reply('E', 'memory full') ] : undef })->put($ID, $OLD);
        my $got = page($server->dsn("$LONG$pool&on_error=throw"), $ID, '$_SESSION["n"] = 1; session_write_close(); echo "not here";');
        like($got->{out}, qr/\Athrew Sessiond\\SessiondException\(8\): session lock\.\.\. was not stored .*refuses: memory full\n\z/, "session_write_close() throws$pool");
        is(join(' ', $server->held), '', 'no lock is left');
        is($server->value($ID), $OLD, 'the data is as it was');
    }
};

done_testing();
