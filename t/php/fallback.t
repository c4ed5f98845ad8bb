#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# fallback.t: a plain sharedance server. Our hello is answered there by an
# orderly close; the handler must then speak S, F and D, one connection each,
# find that out only once per page, and never mistake for a sharedance what is
# none. What sharedance cannot say must still come out right: an empty session,
# and "there is no such session" behind a tunnel whose far end is down.
use v5.36;
use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/lib';
use Test::More;
use FakeServer;
use PhpTest;

plan skip_all => 'no php' unless php_binary();

my $ID    = 'fallback-0123456789abcdef';
my $LONG  = '?timeout=60&lock=off';
my $LOCK  = '?timeout=60';
my $COUNT = '$_SESSION["n"] = ($_SESSION["n"] ?? 0) + 1; echo "n=", $_SESSION["n"], "\n";';
my $PROBE = 'sessiond probe';

sub types ($server) { return $server->frames =~ s/\d+://gr }

subtest 'requests and connections' => sub {
    my $server = FakeServer->start(speak => 'sharedance');
    my $dsn = $server->dsn($LONG);
    is(page($dsn, $ID, $COUNT)->{out}, "n=1\n", 'a new session');
    is($server->frames, '1:P 2:F 3:S 4:S', 'hello, fetch, the proof that a server is there, store: a connection each');
    is($server->value($PROBE), '1', 'the proof is a tiny store under a key that is no session id');
    is(page($dsn, $ID, $COUNT)->{out}, "n=2\n", 'a session that is there');
    is(types($server), 'P F S', 'needs no proof');
    is(page($dsn, $ID, '')->{err}, '', 'an unchanged session');
    is(types($server), 'P F S', 'is stored again: sharedance counts its lifetime from there');
    is(page($dsn, $ID, "session_write_close(); session_start(); $COUNT session_write_close(); session_start();")->{out}, "n=3\n", 'three sessions in one page');
    is(types($server), 'P F S F S F S', 'the hello was tried only once');
    is(page($dsn, $ID, $COUNT, 'session.use_strict_mode' => 1)->{out}, "n=4\n", 'strict mode');
    is(types($server), 'P F S', 'costs no fetch more');
    is(page($dsn, 'unknown-0123456789abcdef', $COUNT, 'session.use_strict_mode' => 1)->{out}, "n=1\n", 'strict mode, an unknown id');
    is(types($server), 'P F S F S', 'one proof is enough for a page');
    is(page($dsn, $ID, 'var_dump(session_destroy());')->{out}, "bool(true)\n", 'destroy');
    is(types($server), 'P F D', 'is one D');
    is($server->value($ID), undef, 'and removes it');
};

subtest 'an empty session' => sub {
    my $server = FakeServer->start(speak => 'sharedance');
    my %strict = ('session.use_strict_mode' => 1);
    my $id = page($server->dsn($LONG), undef, 'echo session_id();', %strict)->{out};
    is($server->value($id), '|N;', 'is stored as a mark, since sharedance calls an empty value none');
    is(page($server->dsn($LONG), $id, 'echo session_id(), json_encode($_SESSION);', %strict)->{out}, $id . '[]', 'keeps its id in strict mode');
    my $theirs = page($server->dsn($LONG), $id, 'echo session_id(), json_encode($_SESSION);', %strict, 'session.lazy_write' => 0);
    is("$theirs->{out}$theirs->{err}", $id . '[]', 'without lazy_write as well');
    is(page($server->dsn($LONG), $id, $COUNT, %strict)->{out}, "n=1\n", 'and can be filled');

    my $decoded = php('session_start(); var_dump(session_decode("|N;")); echo json_encode(array_filter($_SESSION));', 'auto_prepend_file' => '', 'session.save_path' => '/tmp');
    is("$decoded->{out}$decoded->{err}", "bool(true)\n[]", 'another client\'s PHP decodes the mark');

    my $ours = FakeServer->start->put($id, '|N;');
    is(page($ours->dsn($LONG), $id, 'echo session_id(), json_encode($_SESSION);', %strict)->{out}, $id . '[]', 'a mark that came to mod_sessiond is an empty session too');
    my $new = page($ours->dsn($LONG), undef, 'echo session_id();', %strict)->{out};
    is($ours->value($new), '', 'with mod_sessiond an empty session is stored as it is');
};

subtest 'without locks, and it says so' => sub {
    my $server = FakeServer->start(speak => 'sharedance');
    my $plain  = qr/Notice: +tcp:\S+ is a plain sharedance server, which has no session locks/;
    my $got = page($server->dsn($LOCK), $ID, "$COUNT session_write_close(); session_start(); $COUNT");
    is($got->{out}, "n=1\nn=2\n", 'two sessions of a page');
    is(() = $got->{err} =~ /$plain/g, 1, 'a notice, once');
    is(types($server), 'P F S S F S', 'and the same requests');
    is(page($server->dsn($LONG), $ID, '')->{err}, '', 'lock=off: no notice');
    my $folder = File::Temp->newdir('sessiond-XXXXXX', DIR => '/tmp');
    open my $page, '>', "$folder/index.php" or die $!;
    print {$page} '<?php session_start(); echo "a page\n";';
    close $page;
    my $web = web($folder, 'session.save_path' => $server->dsn($LOCK), log_errors => 1, display_errors => 0);
    is((web_request($web, '/'))[1], "a page\n", "request $_ of a process") for 1 .. 3;
    open my $log, '<', $web->{log} or die $!;
    is(scalar(grep { $_ =~ $plain } <$log>), 1, 'three requests of one process: one notice');
    for my $order ([ 'reset' ], [ 'stall' ]) {
        my $sick = FakeServer->start(speak => 'sharedance', hook => sub ($s, $f) { $f->{type} eq 'P' ? $order : undef });
        unlike(page($sick->dsn('?timeout=0.3'), $ID, $COUNT)->{err}, $plain, "no notice when it is a $order->[0]");
        unlike($sick->types, qr/[FS]/, 'nor is it taken for one');
    }
};

# What an application's error handler makes of our notice must not reach PHP in
# the middle of validateId(), or the user's cookie is swapped.
subtest 'a notice that is made an exception' => sub {
    my $folder = File::Temp->newdir('sessiond-XXXXXX', DIR => '/tmp');
    open my $page, '>', "$folder/index.php" or die $!;
    print {$page} '<?php set_error_handler(function ($n, $s) { throw new ErrorException($s); });'
        . " try { session_start(); $COUNT } catch (Throwable \$e) { echo get_class(\$e), ' ', \$e->getMessage(), \"\\n\"; }";
    close $page;
    for my $strict (0, 1) {
        my $server = FakeServer->start(speak => 'sharedance')->put($ID, 'n|i:41;');
        my $web = web($folder, 'session.save_path' => $server->dsn($LOCK), 'session.use_strict_mode' => $strict);
        my ($status, $body, $header) = web_request($web, '/', cookie => "PHPSESSID=$ID");
        like($body, qr/^ErrorException tcp:\S+ is a plain sharedance server/, "strict $strict: the page gets it");
        is_deeply($header->{'set-cookie'}, undef, "strict $strict: the cookie stays as it is");
        ($status, $body, $header) = web_request($web, '/', cookie => "PHPSESSID=$ID");
        is($body, "n=42\n", "strict $strict: and so does the session");
        is_deeply($header->{'set-cookie'}, undef, "strict $strict: no new cookie");
    }
};

subtest 'an earlier mod_sessiond' => sub {
    my $server = FakeServer->start(features => 'fence')->put($ID, 'n|i:41;');
    my $got = page($server->dsn($LOCK), $ID, "$COUNT session_write_close(); session_start(); $COUNT");
    is("$got->{out}$got->{err}", "n=42\nn=43\n", 'is used without locks, and without a notice');
    is($server->frames =~ s/\d+://gr, 'P L P G W P G W', 'its hello tells, once a page');
    is($server->value($ID), 'n|i:43;', 'all is stored');
};

subtest 'values of the clients people have' => sub {
    my $server = FakeServer->start(speak => 'sharedance')->put($ID, 'a:1:{s:1:"n";i:7;}');
    is(page($server->dsn($LONG), $ID, $COUNT, 'session.serialize_handler' => 'php_serialize')->{out}, "n=8\n", 'a session of sharedance\'s own handler is read');
    is($server->value($ID), 'a:1:{s:1:"n";i:8;}', 'and written so that it can read it again');
};

subtest 'what is no sharedance' => sub {
    # mod_sessiond answered once: whatever comes later, it is no sharedance.
    my $hellos = 0;
    my $server = FakeServer->start(hook => sub ($s, $f) {
        return [ 'close', FakeServer::value_reply(1, 'n|i:41;') ] if $f->{type} eq 'G';
        return $f->{type} eq 'P' && $hellos++ ? ['close'] : undef;
    })->put($ID, 'n|i:41;');
    my $got = page($server->dsn($LONG), $ID, $COUNT);
    like($got->{err}, qr/was not stored .*closed without an answer/, 'closed hellos after a good one are an outage');
    unlike($server->types, qr/[SF]/, 'F and S were not tried');

    $hellos = 0;
    $server = FakeServer->start(hook => sub ($s, $f) { $f->{type} eq 'P' && $hellos++ ? ['close'] : undef })->put($ID, 'n|i:41;');
    $got = page($server->dsn($LONG), $ID, "$COUNT session_write_close(); session_start(); $COUNT");
    like($got->{out}, qr/^n=42\nthrew Sessiond\\SessiondException\(6\): /, 'nor at a second session of the page');
    unlike($server->types, qr/[SF]/, 'F and S were not tried');

    # A tunnel or proxy in front of a server that is down closes everything in order.
    my $tunnel = FakeServer->start(hook => sub { ['close'] })->put($ID, 'n|i:41;');
    for my $strict (0, 1) {
        $got = page($tunnel->dsn($LONG), $ID, $COUNT, 'session.use_strict_mode' => $strict);
        like($got->{out}, qr/^threw Sessiond\\SessiondException\(8\): .*nothing but a tunnel/, "strict $strict: a dead tunnel is not an empty session");
    }
    $tunnel->hook_off;
    is(page($tunnel->dsn($LONG), $ID, $COUNT)->{out}, "n=42\n", 'when its far end is back, so is the session');
};

done_testing();
