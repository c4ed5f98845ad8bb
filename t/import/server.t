#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# sessiond-import and what it meets at the other end: each form of an address,
# a server that refuses (too large, full), and whatever is no mod_sessiond. And
# the command line: what is wrong with it is said in a sentence.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use IO::Socket::INET ();
use POSIX ();
use Socket ();
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client ();
use Sessiond::Test::Import qw(run_import new_directory put_session);
use Sessiond::Test::Net    qw(now nap has_ipv6);

my $v6 = has_ipv6() ? 'SessiondListen [::1]:%PORT2%' : '';
my $h = Sessiond::Test::Httpd->new(name => 'server', config => <<"END")->start;
SessiondListen 127.0.0.1:%PORT%
SessiondListen unix:%ROOT%/run/sessiond 0666
$v6
SessiondMemory 4M
SessiondMaxSize 100K
END
$h->allow_log(qr/the session memory is full/);
my $server = '127.0.0.1:' . $h->port;
my $c = Sessiond::Test::Client->new($h->port);
my $one = new_directory();
put_session($one, 'one', 'value', 10);

subtest 'addresses' => sub {
    for my $address ($server, 'localhost:' . $h->port, "unix:" . $h->root . '/run/sessiond', $v6 ? '[::1]:' . $h->port(2) : ()) {
        $c->remove('one');
        my $run = run_import('sharedance', $one, $address);
        is_deeply([$run->{status}, $run->{sum}{imported}], [0, 1], $address) or diag $run->{err};
        is(($c->get('one'))[1]{data}, 'value', 'it is there');
    }
};

subtest 'the command line' => sub {
    for my $case (
        ['usage: sessiond-import',                  ],
        ['usage: sessiond-import',                  'sharedance', $one],
        ['usage: sessiond-import',                  'sharedance', $one, $server, 'more'],
        ['what can be imported is',                 'redis', $one, $server],
        ['a port is missing',                       'sharedance', $one, 'localhost'],
        ['a port from 1 to 65535',                  'sharedance', $one, 'localhost:65536'],
        ['a port from 1 to 65535',                  'sharedance', $one, 'localhost:1042x'],
        ['in brackets',                             'sharedance', $one, 'fd00::100:1042'],
        ['write an IPv6 address as in',             'sharedance', $one, '[fd00::100]'],
        ['must be absolute',                        'sharedance', $one, 'unix:run/x'],
        ['at most 107 bytes',                       'sharedance', $one, 'unix:/' . 'x' x 107],
        ['host is missing',                         'sharedance', $one, ':1042'],
        ['a number of levels',                      'php', "x;$one", $server],
        ['"N;/path" or "N;MODE;/path"',             'php', "1;0600;7;$one", $server],
        ['0 to 16 levels',                          'php', "17;$one", $server],
        ['the directory is missing',                'php', '1;', $server],
        ['--expiration 0: give a whole number',     '--expiration', '0', 'php', $one, $server],
        ['--expiration 1x: give a whole number',    '-e', '1x', 'php', $one, $server],
        ['--since -1: give a whole number',         '--since=-1', 'php', $one, $server],
        ['at most 64 printable',                    '-p', 'a.b', 'php', $one, $server],
        ['at most 64 printable',                    '-p', 'a' x 65, 'php', $one, $server],
        ['--follow goes with neither',              '-f', '5', '-n', 'php', $one, $server],
        ['unrecognized option',                     '--what', 'php', $one, $server],
        ['No such file or directory',               'sharedance', "$one/none", $server],
        ['Not a directory',                         'sharedance', "$one/one", $server],
        ) {
        my ($sentence, @arguments) = @$case;
        my $run = run_import(@arguments);
        is($run->{status}, 2, "status 2: @arguments");
        like($run->{err}, qr/\Q$sentence/, "says: $sentence");
        is($run->{out}, '', 'and nothing on standard output');
    }
    my $help = run_import('--help');
    is($help->{status}, 0, '--help');
    like($help->{out}, qr/^usage: .*^Exit status: /ms, 'says how');
    like(run_import('-V')->{out}, qr/^sessiond-import, of mod_sessiond \d+\.\d+\.\d+$/, '--version');
};

subtest 'too large' => sub {
    my $dir = new_directory();
    put_session($dir, "small$_", 'x' x 3000, 10) for 1 .. 300;
    put_session($dir, "larger$_", 'x' x (120_000 + 1000 * $_), 10) for 1 .. 5;
    put_session($dir, 'huge', 'x' x 1_500_000, 10);
    put_session($dir, 'fits', 'x' x (100 * 1024 - 4), 10);
    put_session($dir, 'one-more', 'x' x (100 * 1024 - 7), 10);
    my $run = run_import('-v', 'sharedance', $dir, $server);
    is_deeply([$run->{status}, @{ $run->{sum} }{ 'imported', 'refused: too large' }], [1, 301, 7],
        'what is larger than SessiondMaxSize is refused, all others are imported') or diag $run->{out}, $run->{err};
    like($run->{out}, qr/^    key and data are larger than SessiondMaxSize: [1-7]$/m, 'in the words of the server');
    unlike($run->{err}, qr/again/, 'and the connection is taken up again without a word');
    is(($c->get('small300'))[1]{data}, 'x' x 3000, 'a value is there');
    is(length((($c->get('fits'))[1])->{data}), 100 * 1024 - 4, 'the largest too');
    $c->remove($_) for 'fits', map { "small$_" } 1 .. 300;
};

subtest 'full' => sub {
    my $dir = new_directory();
    put_session($dir, "full$_", sprintf('%05d', $_) . 'x' x 2000, 10) for 1 .. 3000;
    my $run = run_import('sharedance', $dir, $server);
    is($run->{status}, 1, 'the status says that something was refused') or diag $run->{out}, $run->{err};
    my ($imported, $refused) = @{ $run->{sum} }{qw(imported refused)};
    is($imported + ($refused // 0), 3000, "$imported were imported and all others refused");
    like($run->{out}, qr/^    the session memory is full: nothing was stored: \d+$/m, 'with the reason');
    is($h->value('Sessions'), $imported + 1, 'those are all there');
    $c->remove("full$_") for 1 .. 3000;
    $run = run_import('sharedance', $dir, $server);
    is($run->{sum}{imported} + $run->{sum}{refused}, 3000, 'and again, when there is room');
};

# Somebody who listens, and does what the code does with each connection.
sub with_fake ($talk, $test) {
    my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 5) or die "listen: $!\n";
    my $pid = fork // die "fork: $!\n";
    if ($pid == 0) {
        while (my $client = $listener->accept) { $talk->($client) }
        POSIX::_exit(0);
    }
    $test->('127.0.0.1:' . $listener->sockport);
    kill KILL => $pid;
    waitpid $pid, 0;
    return;
}

subtest 'what is no mod_sessiond' => sub {
    my $read = sub ($client) { sysread $client, my $hello, 9; return substr $hello, 1 };
    my $reply = sub ($body) { return pack('a1 N', 'K', length $body) . $body };
    my @kept;
    for my $case (
        ['closes in order, as sharedanced', qr/closes at a hello: it is no mod_sessiond \(a sharedanced does that\)/,
            sub ($client) { $read->($client); close $client }],
        ['resets', qr/breaks the connection \(Connection reset by peer\): is this host in its SessiondAllow\?/,
            sub ($client) { $read->($client); setsockopt $client, Socket::SOL_SOCKET(), Socket::SO_LINGER(), pack('ii', 1, 0); close $client }],
        ['speaks HTTP', qr/no mod_sessiond/,
            sub ($client) { $read->($client); syswrite $client, "HTTP/1.1 400 Bad Request\r\n\r\n"; close $client }],
        ['sends less than a reply', qr/no mod_sessiond/,
            sub ($client) { $read->($client); syswrite $client, "K\0\0"; close $client }],
        ['sends another nonce', qr/no mod_sessiond/,
            sub ($client) { $read->($client); syswrite $client, $reply->('12345678mod_sessiond/1 fence') }],
        ['has another name', qr/no mod_sessiond/,
            sub ($client) { my $nonce = $read->($client); syswrite $client, $reply->($nonce . 'other_thing/1 fence') }],
        ['knows no versions', qr/does not look at versions: update it/,
            sub ($client) { my $nonce = $read->($client); syswrite $client, $reply->($nonce . 'mod_sessiond/0.0.1') }],
        ['says more than was asked', qr/no mod_sessiond/,
            sub ($client) { my $nonce = $read->($client); syswrite $client, $reply->($nonce . 'mod_sessiond/1 fence') . "B\0\0\0\0" }],
        ['is silent', qr/does not answer to a hello within 1 s: is it a mod_sessiond\?/,
            sub ($client) { push @kept, $client }],
        ) {
        my ($name, $sentence, $talk) = @$case;
        with_fake($talk, sub ($address) {
            my $run = run_import('--timeout', 1, 'sharedance', $one, $address);
            is($run->{status}, 3, "$name: status 3");
            like($run->{err}, $sentence, 'and the sentence');
            like($run->{out}, qr/^imported: 0$/m, 'nothing was imported');
        });
    }
    my $run = run_import('sharedance', $one, '127.0.0.1:' . $h->port(3));
    is($run->{status}, 3, 'nobody listens: status 3');
    like($run->{err}, qr/cannot connect to 127\.0\.0\.1:\d+: Connection refused/, 'and the sentence');
    $run = run_import('sharedance', $one, 'unix:' . $h->root . '/run/none');
    is($run->{status}, 3, 'no such socket: status 3');
    # By a server that answers once and then never again.
    with_fake(sub ($client) { my $nonce = $read->($client); syswrite $client, $reply->($nonce . 'mod_sessiond/1 fence'); push @kept, $client },
        sub ($address) {
            my $begin = now();
            my $slow = run_import('--timeout', 1, 'sharedance', $one, $address);
            is($slow->{status}, 3, 'a server that is silent after the hello: status 3');
            like($slow->{err}, qr/lost|without an answer/, 'and a sentence');
            like($slow->{out}, qr/^unanswered: 1 /m, 'what was sent is counted as unanswered');
            cmp_ok(now() - $begin, '<', 90, 'in time');
        });
};

is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
