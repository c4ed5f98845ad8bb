#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# real_server.t: our handler against the real module, over TCP, IPv6 and a Unix
# socket. The fake servers show what the handler does with any answer; this
# shows that the module gives the answers it is written for: that one
# connection carries a page, that sharedance's clients and ours see the same
# sessions, and that a page notices neither a graceful restart nor the death of
# the session process between its read and its write.
use v5.36;
use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/lib', dirname(__FILE__) . '/../lib';
use Test::More;
use PhpTest;
use Sessiond::Test::Client ();
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Net qw(has_ipv6 now nap);

plan skip_all => 'no php' unless php_binary();

my $OPTIONS = '?timeout=60';
my $COUNT   = '$_SESSION["n"] = ($_SESSION["n"] ?? 0) + 1; echo session_id(), " ", $_SESSION["n"], "\n";';
my $SHOW    = 'echo session_id(), " ", json_encode($_SESSION), "\n";';

my $ipv6  = has_ipv6() ? "SessiondListen [::1]:%PORT2%\n" : '';
my $httpd = Sessiond::Test::Httpd->new(name => 'php', config => <<"END")->start;
SessiondListen 127.0.0.1:%PORT%
SessiondListen unix:%ROOT%/run/sessiond.sock 0666
SessiondMaxSize 4M
$ipv6
END
my $tcp  = 'tcp://127.0.0.1:' . $httpd->port . $OPTIONS;
my $unix = 'unix://' . $httpd->root . "/run/sessiond.sock$OPTIONS";
my $old  = Sessiond::Test::Client->new($httpd->port);    # what speaks only S, F and D

sub clean ($got, $name) {
    is($got->{err}, '', "$name: without a complaint");
    return $got->{out};
}

my %way = (TCP => $tcp, 'Unix socket' => $unix, $ipv6 ? (IPv6 => 'tcp://[::1]:' . $httpd->port(2) . $OPTIONS) : ());
for my $name (sort keys %way) {
    for my $strict (0, 1) {
        subtest "$name, strict mode $strict" => sub {
            my @ini = ('session.use_strict_mode' => $strict, 'session.serialize_handler' => 'php_serialize');
            my ($id, $n) = split ' ', clean(page($way{$name}, undef, $COUNT, @ini), 'a new session');
            is($n, 1, 'starts at 1');
            is(clean(page($way{$name}, $id, $COUNT, @ini), 'a second process'), "$id 2\n", 'sees it');
            is(clean(page($way{$name}, $id, $SHOW, @ini), 'unchanged'), qq{$id {"n":2}\n}, 'stays');
            is_deeply([ $old->fetch($id) ], [ 'ok', 'a:1:{s:1:"n";i:2;}' ], 'a sharedance client sees the same');
            is($old->store($id, 'a:1:{s:1:"n";i:7;}'), 'ok', 'and may write it');
            is(clean(page($way{$name}, $id, $COUNT, @ini), 'after that'), "$id 8\n", 'we see its work');
            my ($new) = split ' ', clean(page($way{$name}, $id, "session_regenerate_id(true); $COUNT", @ini), 'regenerate_id(true)');
            is(($old->fetch($id))[0], 'no', 'the old id is gone');
            is(clean(page($way{$name}, $new, $SHOW, @ini), 'the new id'), qq{$new {"n":9}\n}, 'has the data');
            my ($empty) = split ' ', clean(page($way{$name}, undef, $SHOW, @ini, 'session.serialize_handler' => 'php'), 'an empty session');
            is(clean(page($way{$name}, $empty, $SHOW, @ini), 'an empty session'), "$empty []\n", 'keeps its id');
            is(clean(page($way{$name}, $new, 'var_dump(session_destroy());', @ini), 'destroy'), "bool(true)\n", 'is true');
            is(($old->fetch($new))[0], 'no', 'the session is gone');
            is(clean(page($way{$name}, undef, 'var_dump(session_destroy());', @ini), 'destroy, never stored'), "bool(true)\n", 'is true too');
        };
    }
}

subtest 'one connection' => sub {
    my $before = $httpd->status;
    page("$tcp&lock=off", 'connection-0123456789abcd', $COUNT, 'session.use_strict_mode' => 0);
    my $after = $httpd->status;
    my %grew = map { $_ => $after->{"Sessiond$_"} - $before->{"Sessiond$_"} } qw(ConnectionsAccepted Hellos GetHits GetMisses Writes BadRequests);
    is_deeply(\%grew, { ConnectionsAccepted => 1, Hellos => 1, GetHits => 0, GetMisses => 1, Writes => 1, BadRequests => 0 }, 'carries a whole page');
};

subtest 'one round trip at each end' => sub {
    my $before = $httpd->status;
    for my $strict (0, 1) {
        page($tcp, 'roundtrip-0123456789abcde', $COUNT, 'session.use_strict_mode' => $strict);
        page($tcp, 'roundtrip-0123456789abcde', '', 'session.use_strict_mode' => $strict);
    }
    my $after = $httpd->status;
    my %grew = map { $_ => $after->{"Sessiond$_"} - $before->{"Sessiond$_"} }
        qw(ConnectionsAccepted Hellos LockGrants Writes Touches Unlocks BadRequests);
    is_deeply(\%grew, { ConnectionsAccepted => 4, Hellos => 4, LockGrants => 4, Writes => 2, Touches => 2, Unlocks => 0, BadRequests => 0 },
        'hello and lock, then write or touch') or diag(explain(\%grew));
    is($httpd->value('LocksHeld'), 0, 'no lock is left');
};

subtest 'large and binary values' => sub {
    my $id   = 'large-0123456789abcdefghi';
    my $hash = 'echo md5($_SESSION["v"]), " ", strlen($_SESSION["v"]), "\n";';
    for my $dsn ($tcp, $unix) {
        for my $value ('random_bytes(2 << 20)', 'implode("", array_map("chr", range(0, 255)))') {
            my $stored = clean(page($dsn, $id, "\$_SESSION['v'] = $value; $hash"), $value);
            is(clean(page($dsn, $id, $hash), 'a second process'), $stored, "$value: comes back whole");
        }
        my $got = page($dsn, $id, '$_SESSION["v"] = str_repeat("x", 5 << 20);', memory_limit => '256M');
        like($got->{err}, qr/was not stored .*SessiondMaxSize/, 'a value that is too large: the server\'s reason is told');
        my ($length) = clean(page($dsn, $id, $hash), 'afterwards') =~ / (\d+)/;
        is($length, 256, 'the earlier value is kept');
    }
};

# Runs a page that waits in the middle, does something meanwhile, lets it end.
sub interrupted ($dsn, $id, $code, $meanwhile) {
    my $folder = File::Temp->newdir('sessiond-XXXXXX', DIR => '/tmp');
    my $pid = open(my $page, '-|') // die "fork: $!\n";
    if (!$pid) {
        my $got = page($dsn, $id, "touch('$folder/in'); while (!file_exists('$folder/out')) usleep(5000); $code");
        print "$got->{out}$got->{err}";
        close STDOUT;
        POSIX::_exit(0);
    }
    my $until = now() + 60;
    nap(0.01) until -e "$folder/in" || now() > $until;
    $meanwhile->();
    open my $signal, '>', "$folder/out" or die $!;
    my $out = join '', <$page>;
    close $page;
    return $out;
}

subtest 'between the read and the write' => sub {
    for my $dsn ($tcp, $unix) {
        my $id = 'meanwhile-0123456789abcde';
        my $n  = (split ' ', page($dsn, $id, $COUNT)->{out})[1];
        is(interrupted($dsn, $id, $COUNT, sub { $httpd->graceful }), "$id " . ++$n . "\n", 'a graceful restart: nobody notices');
        is(interrupted($dsn, $id, $COUNT, sub { $httpd->wait_respawn($httpd->kill_sessiond) }), "$id " . ++$n . "\n", 'SIGKILL of the session process: nobody notices');
        is(page($dsn, $id, $COUNT)->{out}, "$id " . ++$n . "\n", 'every count is stored');
        my $off = "$dsn&lock=off";
        like(interrupted($off, $id, $COUNT, sub { page($off, $id, 'session_destroy();') }), qr/was not stored .*removed it meanwhile/, 'a log-out without locks: the write is dropped');
        is(($old->fetch($id))[0], 'no', 'and the session stays removed');
    }
};

# Runs so many processes, each of which makes so many changes in sessions of its
# own; returns what they complained about.
sub crowd ($processes, $rounds, $dsn, $id, $meanwhile) {
    my @pages;
    for my $n (1 .. $processes) {
        my $pid = open(my $page, '-|') // die "fork: $!\n";
        if (!$pid) {
            my $got = php("for (\$i = 0; \$i < $rounds; \$i++) { session_id('$id'); session_start(); usleep(2000);"
                    . ' $_SESSION["n"] = ($_SESSION["n"] ?? 0) + 1; session_write_close(); }', 'session.save_path' => $dsn);
            print "$got->{out}$got->{err}", $got->{status} ? "status $got->{status}\n" : '';
            close STDOUT;
            POSIX::_exit(0);
        }
        push @pages, $page;
    }
    $meanwhile->();
    return join '', map { my $page = $_; <$page> } @pages;
}

subtest '400 increments by 4 processes' => sub {
    my $restarts = $ENV{SESSIOND_TEST_LONG} ? 10 : 3;
    for my $pool ('', '&persistent=on') {
        my $id = "crowd-0123456789abcdefghi" . ($pool ? 'p' : 'n');
        is(crowd(4, 100, "$tcp$pool", $id, sub { $httpd->graceful for 1 .. $restarts }), '', "$restarts graceful restarts$pool: no request failed");
        is(($old->fetch($id))[1], 'n|i:400;', "no increment is lost$pool");
    }
    is($httpd->value('LocksHeld'), 0, 'no lock is left');
};

# PHP renews an unchanged session by a touch; one that has expired meanwhile is
# written, and nobody comes between.
subtest 'a session that expires while its page runs' => sub {
    for my $pool ('', '&persistent=on') {
        my $id = 'expiring-0123456789abcdef' . ($pool ? 'p' : 'n');
        $old->store($id, 'n|i:41;');
        my $got = page("$tcp$pool", $id, 'session_write_close(); session_start(); usleep(2100000); echo session_write_close() ? "written" : "not";',
            'session.gc_maxlifetime' => 1);
        is("$got->{err}$got->{out}", 'written', "nothing to complain about$pool");
        is(($old->fetch($id))[1], 'n|i:41;', "it is there for its next request$pool");
    }
    is($httpd->value('LocksHeld'), 0, 'no lock is left');
};

subtest 'a page that is killed' => sub {
    my $id = 'killed-0123456789abcdefgh';
    $old->store($id, 'n|i:41;');
    my $file = File::Temp->new;
    my $pid = fork // die $!;
    if (!$pid) {
        page($tcp, $id, "file_put_contents('$file', (string) getmypid()); sleep(60);");
        POSIX::_exit(0);
    }
    my $until = now() + 60;
    nap(0.01) until -s "$file" || now() > $until;
    open my $fh, '<', "$file" or die $!;
    my $page = readline $fh;
    my $begin = now();
    kill KILL => $page;
    is(page($tcp, $id, $COUNT)->{out}, "$id 42\n", 'kill -9: the next has the lock at once');
    cmp_ok(now() - $begin, '<', 20, 'and not at the end of its lease');
    waitpid $pid, 0;
};

subtest 'a server that hangs' => sub {
    my $id = 'hangs-0123456789abcdefghi';
    $old->store($id, 'n|i:41;');
    my $pid   = $httpd->sessiond_pid;
    my $short = $tcp =~ s/timeout=60/timeout=1/r;
    kill STOP => $pid;
    my $got = page($short, $id, $COUNT);
    kill CONT => $pid;
    like($got->{out}, qr/^threw Sessiond\\SessiondException\(4\): .*within timeout=1 s/, 'at the start: a clear error');
    cmp_ok($got->{seconds}, '<', 20, 'in time');
    my $out = interrupted($short, $id, $COUNT, sub { kill STOP => $pid });
    kill CONT => $pid;
    like($out, qr/was not stored .*within timeout=1 s/, 'at the end: a warning');
    is(page($tcp, $id, $COUNT)->{out} =~ s/\d+\n//r, "$id ", 'afterwards all is well');
    like(($old->fetch($id))[1], qr/^n\|i:4[23];$/, 'and never a blank session');
};

subtest 'respawning' => sub {
    my $id = 'respawn-0123456789abcdefg';
    $old->store($id, 'n|i:41;');
    my $pid = $httpd->kill_sessiond;
    is(page($tcp, $id, $COUNT)->{out}, "$id 42\n", 'a page right after a SIGKILL waits for the next process');
    $httpd->wait_respawn($pid);
};

$httpd->allow_log(qr/exit signal Killed|session process.*(?:kill|signal|ended|died|exit)/i);
my $store_id = 'outage-0123456789abcdefgh';
$old->store($store_id, 'n|i:41;');
is($httpd->check, 'clean', 'the store is sound');
like(interrupted($tcp, $store_id, $COUNT, sub { $httpd->finish }), qr/^\Q$store_id\E 42\n.*was not stored .*cannot connect/s, 'httpd stopped while a page ran: a warning');
for my $dsn ($tcp, $unix) {
    like(page($dsn, $store_id, $COUNT)->{out}, qr/^threw Sessiond\\SessiondException\(3\): .*cannot connect/, 'httpd stopped: session_start() throws');
    next unless $dsn eq $tcp;    # the file of the other one is gone
    like(page($dsn, $store_id, $COUNT)->{out}, qr/cannot connect: Connection refused \(does httpd run there, with SessiondListen/, 'and asks what to look at');
}

done_testing();
