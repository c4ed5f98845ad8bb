#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# pool.t: a connection that outlives its request. One process of PHP's own web
# server serves page after page, so each finds the connection of the one before:
# alive, closed, silent, or with something on it that belongs to somebody else.
# What must never happen is that a page gets the answer to another one's
# question. Each page says which way it is to end.
use v5.36;
use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/lib';
use Test::More;
use FakeServer;
use PhpTest;
use Sessiond::Test::Net qw(now nap);

plan skip_all => 'no php' unless php_binary();

my $POOL = '?timeout=20&persistent=on';
my ($ALICE, $BOB) = ('alice-0123456789abcdefghi', 'bob-0123456789abcdefghijk');

# The page runs what it is told to, between session_start() and its end.
my $folder = File::Temp->newdir('sessiond-XXXXXX', DIR => '/tmp');
open my $page, '>', "$folder/index.php" or die $!;
print {$page} <<'END';
<?php
ini_set('memory_limit', '32M');
try {
    session_start();
    eval(base64_decode($_POST['code'] ?? ''));
    echo session_id(), ' ', $_SESSION['name'] ?? 'nobody', "\n";
} catch (Sessiond\SessiondException $e) {
    echo 'threw ', $e->getCode(), ' ', $e->getMessage(), "\n";
}
END
close $page;

sub server_and_web ($options = $POOL, %arg) {
    my $server = FakeServer->start(%arg);
    $server->put($ALICE, 'name|s:5:"Alice";')->put($BOB, 'name|s:3:"Bob";');
    my $web = web($folder, 'session.save_path' => $server->dsn($options), log_errors => 1, display_errors => 0);
    return ($server, $web);
}

sub ask ($web, $id, $code = '') {
    require MIME::Base64;
    my $body = 'code=' . MIME::Base64::encode_base64($code, '') =~ s/([+=\/])/sprintf '%%%02X', ord $1/ger;
    my ($status, $content) = web_request($web, '/', cookie => "PHPSESSID=$id", method => 'POST', body => $body);
    return $content;
}

sub log_of ($web) { open my $fh, '<', $web->{log} or die $!; local $/; return <$fh> }

for my $on (qw(tcp unix), Sessiond::Test::Net::has_ipv6() ? 'tcp6' : ()) {
    subtest "one connection, $on" => sub {
        my ($server, $web) = server_and_web($POOL, on => $on);
        for my $round (1 .. 5) {
            is(ask($web, $ALICE), "$ALICE Alice\n", "Alice, $round");
            is(ask($web, $BOB, '$_SESSION["n"] = ($_SESSION["n"] ?? 0) + 1;'), "$BOB Bob\n", "Bob, $round");
        }
        is($server->frames, join(' ', map { '1:P 1:L 1:T 1:P 1:L 1:W' } 1 .. 5), 'serves them all, one round trip to start and one to end');
        is($server->value($BOB), 'name|s:3:"Bob";n|i:5;', 'and all is stored');
        is(join(' ', $server->held), '', 'no lock is left');
        unlike(log_of($web), qr/Warning|Fatal/, 'no complaint');
        is(ask($web, 'unknown-0123456789abcdef', 'session_abort();') =~ /nobody/, 1, 'a page without a write');
        is($server->types, 'PLU', 'unlocks, and keeps the connection');
        ask($web, $ALICE, 'session_destroy();');
        is($server->frames, '1:P 1:L 1:R', 'a removal keeps it, too');
    };
}

subtest 'without the option' => sub {
    my ($server, $web) = server_and_web('?timeout=20');
    ask($web, $ALICE) for 1 .. 3;
    is($server->frames, '1:P 1:L 1:T 2:P 2:L 2:T 3:P 3:L 3:T', 'each page has its own');
};

subtest 'two sessions in one page' => sub {
    my ($server, $web) = server_and_web();
    ask($web, $ALICE);
    $server->frames;
    my $code = '$h = new Sessiond\SessiondHandler("' . $server->dsn($POOL) . '"); $h->open("", "x"); $other = $h->read("' . $BOB . '");'
        . '$h->write("' . $BOB . '", $other . "x|i:1;"); $h->close();';
    is(ask($web, $ALICE, "$code\$_SESSION['a'] = 1;"), "$ALICE Alice\n", 'a second handler in Alice\'s page');
    is($server->frames, '1:P 1:L 2:P 2:L 2:W 1:W', 'has a connection of its own: a hello on the first would release Alice\'s lock');
    is($server->value($ALICE), 'name|s:5:"Alice";a|i:1;', 'Alice\'s is stored');
    is(ask($web, $ALICE, 'session_write_close(); session_start();'), "$ALICE Alice\n", 'closing and starting again');
    is($server->frames, '1:P 1:L 1:T 1:P 1:L 1:T', 'takes the same one');
};

subtest 'a connection that has gone' => sub {
    for my $way (qw(close reset)) {
        my $closing = 0;
        my ($server, $web) = server_and_web($POOL, hook => sub ($s, $f) {
            return [ $way, FakeServer::reply('K') ] if $f->{type} eq 'T' && $f->{key} eq $ALICE;
            return;
        });
        ask($web, $ALICE);
        $server->frames;
        nap(0.05);
        is(ask($web, $BOB), "$BOB Bob\n", "idle, $way: the next page has a new one");
        is($server->frames, '2:P 2:L 2:T', "idle, $way: before it asks");
        # Now it ends while the hello is on its way.
        my $n = 0;
        ($server, $web) = server_and_web($POOL, hook => sub ($s, $f) { $f->{type} eq 'P' && $n++ == 1 ? [$way] : undef });
        ask($web, $ALICE);
        $server->frames;
        is(ask($web, $BOB), "$BOB Bob\n", "under way, $way: within the page");
        is($server->frames, '1:P 2:P 2:L 2:T', "under way, $way: a new one takes its place");
        unlike(log_of($web), qr/Warning|Fatal/, "$way: no complaint");
    }
    my $n = 0;
    my ($server, $web) = server_and_web('?timeout=2&persistent=on', hook => sub ($s, $f) { $f->{type} eq 'P' && $n++ == 1 ? ['stall'] : undef });
    ask($web, $ALICE);
    my $begin = now();
    is(ask($web, $BOB), "$BOB Bob\n", 'a silent one (a firewall forgot it): within the time-out, too');
    cmp_ok(now() - $begin, '<', 20, 'in time');
    is($server->types, 'PLTPPLT', 'a new one takes its place');
};

# What is on a connection that a page left in disorder must reach nobody. The
# server keeps for Alice's question what it owes, and sends it to Bob.
subtest 'an answer to somebody else' => sub {
    my $secret = 'name|s:5:"Alice";';
    my @late = (
        [ 'a whole value',        sub { FakeServer::value_reply(1, $secret) } ],
        [ 'half a value',         sub { substr FakeServer::value_reply(1, $secret), 7 } ],
        [ 'a K',                  sub { FakeServer::reply('K') } ],
        [ 'an N',                 sub { FakeServer::reply('N') } ],
        [ 'an old hello',         sub { FakeServer::reply('K', '12345678mod_sessiond/0.1 fence lock') } ],
        [ 'a hello and a value',  sub { FakeServer::reply('K', '12345678mod_sessiond/0.1 fence lock') . FakeServer::value_reply(1, $secret) } ],
        [ 'one byte',             sub { 'K' } ],
        [ 'an E',                 sub { FakeServer::reply('E', 'a sentence') } ],
    );
    for my $case (@late) {
        my ($name, $bytes) = @$case;
        for my $when (qw(before with)) {
            my $hellos = 0;
            my ($server, $web) = server_and_web($POOL, hook => sub ($s, $f) {
                # before: behind the answer to Alice's last frame; with: in front of Bob's hello
                return [ 'keep', FakeServer::reply('K') . $bytes->() ] if $when eq 'before' && $f->{type} eq 'T' && $f->{key} eq $ALICE;
                return unless $f->{type} eq 'P' && ++$hellos == 2 && $when eq 'with';
                return [ 'keep', $bytes->() . FakeServer::reply('K', "$f->{nonce}mod_sessiond/0.1 fence lock") ];
            });
            is(ask($web, $ALICE), "$ALICE Alice\n", "$name, $when: Alice");
            is(ask($web, $BOB, '$_SESSION["b"] = 1;'), "$BOB Bob\n", "$name, $when: Bob gets Bob's");
            is($server->value($BOB), 'name|s:3:"Bob";b|i:1;', "$name, $when: and that is stored");
            like($server->frames, qr/ 2:P 2:L 2:W$/, "$name, $when: on a new connection");
            is(join(' ', $server->open_connections), '2', "$name, $when: the old one is closed");
        }
    }
};

# Pages that end where no page should, in our own code: PHP runs a signal's
# handler as soon as the read that it came upon is over.
subtest 'a page that dies while it waits' => sub {
    my %death = (
        'a fatal error' => 'trigger_error("enough", E_USER_ERROR);',
        'exit'          => 'exit("gone");',
        'an exception'  => 'throw new RuntimeException("enough");',
        'no memory'     => '$x = str_repeat("x", 1 << 30);',
    );
    for my $name (sort keys %death) {
        my ($server, $web) = server_and_web('?timeout=1.5&persistent=on', hook => sub ($s, $f) {
            return $f->{type} eq 'W' && $f->{key} eq $ALICE ? [ 'stall', "K\0\0" ] : undef;
        });
        my $die = 'pcntl_async_signals(true); pcntl_signal(SIGALRM, function () { ' . $death{$name} . ' }, false); pcntl_alarm(1); $_SESSION["a"] = 1; session_write_close();';
        ask($web, $ALICE, $die);
        like(ask($web, $BOB), qr/^\Q$BOB\E Bob\n/, "$name: Bob gets Bob's");
        like($server->frames, qr/1:W .*\d:P \d:L \d:T$/, "$name: Alice's was under way");
        unlike(join(' ', $server->open_connections), qr/\b1\b/, "$name: her connection is closed");
        is(join(' ', $server->held), '', "$name: no lock is left");
        is($server->value($BOB), 'name|s:3:"Bob";', "$name: Bob's session is as it was");
    }
};

subtest 'a page that dies elsewhere' => sub {
    my %death = (
        'an uncaught error'        => 'nosuch();',
        'a full memory'            => '$_SESSION["a"] = 1; $x = []; while (true) $x[] = str_repeat("y", 1000);',
        'a session too large'      => '$_SESSION["a"] = str_repeat("y", 8 << 20); $x = null; while (true) { $b = new stdClass; $b->n = $x; $x = $b; }',
        'an object that throws'    => 'class Bad { public function __serialize(): array { throw new Exception("no"); } } $_SESSION["a"] = new Bad;',
        'a time limit'             => 'ini_set("max_execution_time", 1); while (true);',
        'exit'                     => 'exit;',
    );
    for my $name (sort keys %death) {
        my ($server, $web) = server_and_web();
        ask($web, $ALICE, $death{$name});
        is(join(' ', $server->held), '', "$name: no lock is left");
        is(ask($web, $BOB), "$BOB Bob\n", "$name: Bob gets Bob's");
        is(join(' ', $server->held), '', "$name: still none");
    }
};

subtest 'a child made by fork' => sub {
    my ($server, $web) = server_and_web();
    ask($web, $BOB);
    $server->frames;
    # The child ends as PHP ends: it wants to store the session that it inherited.
    my $fork = '$_SESSION["who"] = "parent"; $child = pcntl_fork(); if (!$child) { $_SESSION["who"] = "child"; exit; } pcntl_waitpid($child, $status);';
    my $got = php("session_id('$ALICE'); session_start(); $fork echo \$_SESSION['who'];", 'session.save_path' => $server->dsn($POOL));
    is($got->{out}, 'parent', 'the parent goes on');
    my $frames = $server->frames;
    like($frames, qr/^2:P 2:L 3:P 3:W(?: 3:G)? 2:W$/, 'the child has a connection of its own, and the parent\'s still works')
        or diag($frames);
    is($server->value($ALICE), 'name|s:5:"Alice";who|s:6:"parent";', 'the parent has the lock: its work is stored');
    like($got->{err}, qr/was not stored .*lock was lost/, 'the child is refused');

    $got = php("session_id('$ALICE'); session_start(); session_write_close(); \$child = pcntl_fork(); session_start(); \$_SESSION['n'] = (\$_SESSION['n'] ?? 0) + 1;"
            . ' session_write_close(); if (!$child) exit; pcntl_waitpid($child, $status); session_start(); echo $_SESSION["n"];', 'session.save_path' => $server->dsn($POOL));
    is("$got->{out}$got->{err}", '2', 'sessions after a fork: both count');
    is(join(' ', $server->held), '', 'no lock is left');
};

done_testing();
