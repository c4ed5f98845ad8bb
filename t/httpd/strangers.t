#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Whoever speaks something else on the port, or absurd lengths and keys, gets a
# defined answer: the table of doc/protocol.md ("What strangers get"). It takes
# no memory, floods no log, and sessions are served all the while. An address
# that is not allowed gets no byte whatever it says. Sockets of datagrams there
# are none.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd    ();
use Sessiond::Test::Client   qw(frame_store frame_fetch frame_delete frame_get frame_write parse_reply);
use Sessiond::Test::Load     ();
use Sessiond::Test::Net      qw(now nap);
use Sessiond::Test::Stranger ();

my $stranger = Sessiond::Test::Stranger->new;
my $MB = 1 << 20;

# What each says, how it ends (Client's words: no = an orderly end without a
# byte), the frames that come before, and what is counted.
my $OVER    = 'E key and data are larger than SessiondMaxSize';
my $UNKNOWN = 'E unknown frame';
my $KEY     = 'E a key is 1 to 250 bytes, each 33 to 126 or 128 to 255';
my $tls     = pack 'H*', '16030100c5010000c10303' . '5a' x 32 . '20' . 'a5' x 32 . '0062130213031301';
my $http    = sub ($what) { return "$what HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: x\r\n\r\n" };
my @SAYINGS = (
    # what                 the bytes                                        end    frames             counted
    ['HTTP GET',           $http->('GET /'),                                'ok',  [$OVER],           'O'],
    ['HTTP HEAD',          $http->('HEAD /'),                               'no',  [],                'B'],
    ['HTTP OPTIONS',       $http->('OPTIONS *'),                            'no',  [],                'B'],
    ['HTTP CONNECT',       $http->('CONNECT a:443'),                        'no',  [],                'B'],
    ['HTTP DELETE',        $http->('DELETE /a'),                            'no',  [],                'O'],
    ['HTTP TRACE',         $http->('TRACE /'),                              'ok',  [$OVER],           'O'],
    ['HTTP LOCK',          $http->('LOCK /a'),                              'ok',  [$OVER],           'O'],
    ['HTTP UNLOCK',        $http->('UNLOCK /a'),                            'ok',  [$OVER],           'O'],
    ['HTTP REPORT',        $http->('REPORT /a'),                            'ok',  [$OVER],           'O'],
    ['HTTP POST',          $http->('POST /') . 'D' . "\0" x 400,            'ok',  ['K', $OVER],      'HO'],
    ['HTTP PUT',           $http->('PUT /a') . 'x' x 5000,                  'ok',  ['K', $OVER],      'HO'],
    ['HTTP PATCH',         $http->('PATCH /a'),                             'ok',  ['K', $UNKNOWN],   'HB'],
    ['HTTP PROPFIND',      $http->('PROPFIND /'),                           'ok',  ['K', $UNKNOWN],   'HB'],
    ['HTTP/2 preface',     "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" . "\0" x 9,   'ok',  ['K', 'K'],        'HHO'],
    ['TLS ClientHello',    $tls,                                            'no',  [],                'B'],
    ['PROXY protocol 1',   "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",          'ok',  ['K', $UNKNOWN],   'HB'],
    ['PROXY protocol 2',   "\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c",               'no',  [],                'B'],
    ['memcached text',     "get abc\r\n",                                   'no',  [],                'B'],
    ['memcached version',  "version\r\n",                                   'no',  [],                'B'],
    ['memcached binary',   "\x80\x0b" . "\0" x 22,                          'no',  [],                'B'],
    ['redis',              "*1\r\n\$4\r\nPING\r\n",                         'no',  [],                'B'],
    ['redis inline',       "QUIT\r\n",                                      'no',  [],                'B'],
    ['MySQL login',        pack('V', 1 << 24 | 0x3d) . "\x85\xa6\x0f\0" . "\0" x 57, 'no', [],        'B'],
    ['PostgreSQL',         pack('N N', 8, 80_877_103),                      'no',  [],                'B'],
    ['SSH',                "SSH-2.0-OpenSSH_9.2\r\n",                       'no',  [],                'O'],
    ['SMTP',               "EHLO example.org\r\n",                          'no',  [],                'B'],
    ['FTP',                "USER anonymous\r\n",                            'ok',  [$OVER],           'O'],
    ['an empty line',      "\r\n",                                          'no',  [],                'B'],
    ['a Java object',      "\xac\xed\0\5sr",                                'no',  [],                'B'],
    # it waits for the rest of a hello, as for any request that does not end
    ['redis PING inline',  "PING\r\n",                                      'reset', [],              'T'],
);
my %COUNTER = (B => 'BadRequests', O => 'OversizedRequests', H => 'Hellos', T => 'Timeouts');

my $config = <<'END';
SessiondListen %PORT%
SessiondMemory 64M
SessiondMaxConnections 300
SessiondTimeout 2
SessiondThreads 2
END
my $h = Sessiond::Test::Httpd->new(name => 'strangers', config => $config)->start;
my $port = $h->port;

sub client () { return Sessiond::Test::Client->new("127.0.0.1:$port") }

# Says the bytes; (outcome, the frames that came as "TYPE text").
sub say_it ($bytes) {
    my ($outcome, $reply) = client()->exchange($bytes);
    my @frames;
    while (my $frame = parse_reply(\$reply)) {
        push @frames, $frame->{type} . ($frame->{type} eq 'E' ? " $frame->{text}" : '');
    }
    return ($outcome, [@frames, $reply eq '' ? () : "rest $reply"]);
}

sub counted () { my $is = $h->status; return { map { $_ => $is->{"Sessiond$_"} } values %COUNTER } }

sub is_counted ($before, $letters, $name) {
    my %want = map { my $letter = $_; $COUNTER{$letter} => scalar(() = $letters =~ /$letter/g) } keys %COUNTER;
    my $now  = counted();
    return is_deeply({ map { $_ => $now->{$_} - $before->{$_} } keys %want }, \%want, $name);
}

sub resident ($pid) {
    open my $fh, '<', "/proc/$pid/status" or die "/proc/$pid/status: $!";
    my ($kb) = join('', readline $fh) =~ /^VmRSS:\s+(\d+)/m;
    return $kb * 1024;
}

my $session = $h->sessiond_pid;
my $c = client();
is($c->store('session', 'data'), 'ok', 'a session');
my $lines = () = $h->error_log =~ /\n/g;
my $resident = resident($session);
my $load = Sessiond::Test::Load->new(addr => $port, clients => 4, extended => 0.5, rate => 200)->start;

subtest 'other protocols' => sub {
    for my $saying (@SAYINGS) {
        my ($name, $bytes, $end, $frames, $letters) = @$saying;
        my $before = counted();
        is_deeply([say_it($bytes)], [$end, $frames], $name);
        is_counted($before, $letters, "$name: counted");
    }
};

subtest 'nothing at all' => sub {
    my $before = counted();
    my $quiet = client();
    $quiet->open;
    is_deeply([$quiet->read_all], ['reset', ''], 'who waits for the server to begin is reset by the time-out');
    is_counted($before, 'T', 'counted');
    my $gone = client();
    $gone->open;
    $gone->half_close;
    is_deeply([$gone->read_all], ['no', ''], 'who goes without a word is let go');
};

subtest 'random bytes' => sub {
    my %seen;
    for (1 .. 300) {
        my $bytes = join '', map { chr int rand 256 } 1 .. 40 + rand 200;
        my ($outcome, $frames) = say_it($bytes);
        $seen{$outcome}++;
        my @odd = grep { !/^(?:K|V|N|B|E [ -~]+)$/ } @$frames;
        fail("frames @odd for " . unpack 'H*', $bytes) if @odd;
        fail("$outcome for " . unpack 'H*', $bytes) if $outcome !~ /^(?:no|ok|reset)$/;
    }
    ok($seen{no}, 'all had a defined end: ' . join ', ', map { "$_ $seen{$_}" } sort keys %seen);
};

subtest 'up to 4 GiB declared, a byte sent' => sub {
    my @lengths = ([3, 0xffff_ffff], [0xffff_ffff, 3], [0xffff_ffff, 0xffff_ffff], [0x8000_0000, 0x8000_0000],
        [3, 0xffff_fffd]);     # the last two add up to 0 in 32 bits
    my (@s, @w);
    for my $lengths (map { @lengths } 1 .. 3) {
        push @s, pack('a1 N N', 'S', @$lengths) . 'x';
        push @w, pack('a1 N N N Q>', 'W', @$lengths, 0, 0) . 'x';
    }
    my $before = counted();
    my @open = map { my $client = client(); $client->open; $client->send($_); $client } @s, @w;
    my @ends = map { [$_->read_all] } @open;
    is_deeply([@ends[0 .. 14]], [(['no', '']) x 15], 'S: an orderly end without a byte, at once');
    my $refusal = pack('a1 N/a', 'E', $OVER =~ s/^E //r);
    is_deeply([@ends[15 .. 29]], [(['ok', $refusal]) x 15], 'W: an E, and an orderly end');
    is_counted($before, 'O' x 30, 'all are counted');
    $_->close for @open;
};

subtest 'the most that is allowed declared, a byte sent' => sub {
    my $most = $h->value('LargestValue');
    my $largest = 32 * $MB - 3;
    my ($before, $memory) = ($h->value('BlocksUsed'), resident($session));
    my @open = map {
        my $client = client();
        $client->open;
        $client->send(($_ % 2 ? pack('a1 N N', 'S', 3, $largest) : pack('a1 N N N Q>', 'W', 3, $largest, 0, 0)) . 'abcx');
        $client;
    } 1 .. 30;
    $h->wait_for(sub { $h->value('ConnectionsOpen') >= 30 }, 30, 'thirty connections');
    # what the load stores meanwhile is in these figures, too
    cmp_ok($h->value('BlocksUsed') - $before, '<', 20_000, 'they hold little, for a gigabyte in all');
    cmp_ok(resident($session) - $memory, '<', 16 * $MB, 'and no memory beside it');
    cmp_ok($h->value('LargestValue'), '>', $most - 8 * $MB, 'there is room for others');
    is($c->store('beside', 'x' x $MB), 'ok', 'a megabyte is stored');
    is($c->delete('beside'), 'ok', 'and deleted');
    is_deeply([map { ($_->read_all)[0] } @open], [('reset') x 30], 'the time-out resets them');
};

subtest 'strange keys' => sub {
    my @keys = map { [$_->[0], $_->[1]] } ['of 255 bytes', 'k' x 255], ['of 256 bytes', 'k' x 256], ['that is empty', ''],
        ['with a NUL', "a\0b"], ['of NULs', "\0\0"], ['with a line end', "a\r\nb"], ['of 16 MiB', 'k' x (16 * $MB)];
    for my $key (@keys) {
        my ($name, $bytes) = @$key;
        my $good = $name eq 'of 255 bytes';
        # The server reads on for a second what it has refused. A client that
        # needs longer for its 16 MiB meets a reset.
        my $ask = sub ($frame) {
            my ($outcome, $reply) = say_it($frame);
            return [$outcome eq 'reset' && length $bytes > $MB ? 'no' : $outcome, $reply];
        };
        is_deeply($ask->(frame_store($bytes, 'data')), $good ? ['ok', ["rest OK\n"]] : ['no', []], "S, a key $name");
        is_deeply($ask->(frame_fetch($bytes)), $good ? ['ok', ['rest data']] : ['no', []], "F, a key $name");
        is_deeply($ask->(frame_delete($bytes)), $good ? ['ok', ["rest OK\n"]] : ['no', []], "D, a key $name");
        my $e = client();
        my ($outcome, @replies) = $e->call(frame_get($bytes), frame_write($bytes, 'data'), frame_get('session'));
        is_deeply([$outcome, map { $_->{text} ? "E $_->{text}" : $_->{data} } @replies], ['ok', $KEY, $KEY, 'data'],
            "G and W, a key $name: an E each, and the connection goes on");
    }
};

my $sum = $load->stop;
diag $load->describe;
is($sum->{missed} + $sum->{wrong} + $sum->{denied} + $sum->{refused} + $sum->{reset} + $sum->{cut} + $sum->{timeout}, 0,
    "beside all this $sum->{stored} stores and $sum->{fetched} fetches went well");
is($h->sessiond_pid, $session, 'by the same process');
is_deeply([$c->fetch('session')], ['ok', 'data'], 'the session is there');
my $held = $h->value('Sessions');
$h->wait_for(sub { $h->value('ConnectionsOpen') == 0 }, 30, 'the end of all connections');
is($held, 1 + $sum->{stored}, 'nothing else has been stored');
cmp_ok(resident($session) - $resident, '<', 40 * $MB, 'the process has not grown');
my $written = (() = $h->error_log =~ /\n/g) - $lines;
is($written, 0, 'nothing was written to the log') or diag $h->error_log_tail($written);

subtest 'datagrams' => sub {
    for my $to ("127.0.0.1:$port", "[::1]:$port") {
        my ($outcome) = Sessiond::Test::Stranger::udp($to, undef, frame_fetch('session'));
        next if $outcome =~ /^error/ && $to =~ /::1/;
        is($outcome, 'refused', "to $to: nobody is there");
    }
};

SKIP: {
    skip 'strangers need a network namespace (root and util-linux)', 1 unless $stranger;
    subtest 'an address that is not allowed' => sub {
        my $before  = $h->status;
        my $to      = "10.99.0.1:$port";
        my @all = (map({ [@$_[0, 1]] } @SAYINGS), ['a fetch', frame_fetch('session')], ['a store', frame_store('session', 'x')],
            ['4 GiB', pack('a1 N N', 'S', 3, 0xffff_ffff) . 'x'], ['a key of 16 MiB', frame_fetch('k' x $MB)], ['nothing', '']);
        is_deeply([$stranger->exchange($to, '10.99.0.2', $_->[1])], ['reset', ''], "$_->[0]: a reset and no byte") for @all;
        is_deeply([$stranger->datagram($to, '10.99.0.2', frame_fetch('session'))], ['refused', ''], 'a datagram: no byte');
        my $is = $h->status;
        is($is->{SessiondRefusedAddress} - $before->{SessiondRefusedAddress}, scalar @all, 'all were counted');
        for my $counter (qw(BytesIn BytesOut ConnectionsAccepted BadRequests OversizedRequests Hellos Timeouts FetchHits Stores)) {
            is($is->{"Sessiond$counter"}, $before->{"Sessiond$counter"}, "$counter stays: nothing was read or sent");
        }
        my @said = grep { /10\.99\.0\.2/ } split /\n/, $h->error_log;
        is(scalar @said, 1, 'the log has one line') or diag join "\n", @said;
        is_deeply([$c->fetch('session')], ['ok', 'data'], 'the session is untouched');
    };
    $h->allow_log(qr/refused a connection from 10\.99\.0\.2/);
}

is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
