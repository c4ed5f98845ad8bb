#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# outage.t: an outage never becomes a blank session. A server that refuses,
# resets, closes, stalls, dribbles or talks nonsense, at each step of a page:
# at the read session_start() must throw our exception and nothing may be
# written afterwards; at the write there must be a warning and no exception.
# What only looks like an outage (one reset, an idle connection that was
# closed) must be survived. Cookies are watched in PHP's own web server, since
# in strict mode PHP would swap the user's id without a word.
use v5.36;
use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/lib';
use Test::More;
use FakeServer;
use PhpTest;
use Sessiond::Test::Net qw(claim_port);

plan skip_all => 'no php' unless php_binary();

my $ID   = 'outage-0123456789abcdefgh';
my $OLD  = 'n|i:41;';
my $COUNT = '$_SESSION["n"] = ($_SESSION["n"] ?? 0) + 1; echo "n=", $_SESSION["n"], "\n";';

# Codes of SessiondException.
my %CODE = (unreachable => 3, timeout => 4, reset => 5, closed => 6, malformed => 7, refused => 8, removed => 9, locked => 10);

# Long, so that a machine that stalls gives no time-out where none is wanted;
# short where the time-out is the point.
my ($LONG, $SHORT) = ('?timeout=60', '?timeout=0.3&lock_wait=0.4');
my $SOON = 20;    # seconds: far below what a dribbling server would take

sub reply (@arguments) { return FakeServer::reply(@arguments) }
sub hello ($frame) { return reply('K', $frame->{nonce} . 'mod_sessiond/0.1 PGW') }

# L is a get with a lock, T a write of nothing, R a removal that needs no end.
my %ALSO = (G => 'L', W => 'T', D => 'R');

sub on ($type, $order) {
    my $types = $type . ($ALSO{$type} // '');
    return sub ($server, $frame) { return index($types, $frame->{type}) >= 0 ? $order : undef };
}

my $VALUE = FakeServer::value_reply(1, $OLD);
my $HALF  = substr $VALUE, 0, length($VALUE) - 3;

# name => [ code, hook, time-out ]. All of them at the read.
my @read_troubles = (
    [ 'a reset instead of a hello',  'reset',     on(P => ['reset']) ],
    [ 'a reset within the hello',    'reset',     on(P => [ 'reset', "K\0\0" ]) ],
    [ 'a reset after the hello',     'reset',     on(G => ['reset']) ],
    [ 'a reset within a header',     'reset',     on(G => [ 'reset', "V\0\0" ]) ],
    [ 'a reset after half a value',  'reset',     on(G => [ 'reset', $HALF ]) ],
    [ 'an end within the hello',     'closed',    on(P => [ 'close', "K\0" ]) ],
    [ 'an end after the hello',      'closed',    on(G => ['close']) ],
    [ 'an end within a header',      'closed',    on(G => [ 'close', "V\0\0\0" ]) ],
    [ 'an end after half a value',   'closed',    on(G => [ 'close', $HALF ]) ],
    [ 'silence',                     'timeout',   on(P => ['stall']), $SHORT ],
    [ 'silence after the hello',     'timeout',   on(G => ['stall']), $SHORT ],
    [ 'silence after half a value',  'timeout',   on(G => [ 'stall', $HALF ]), $SHORT ],
    [ 'a dribble',                   'timeout',   on(G => [ 'dribble', FakeServer::value_reply(1, 'x' x 5000) ]), $SHORT ],
    [ 'a wrong nonce',               'malformed', on(P => [ 'keep', reply('K', 'x' x 8 . 'mod_sessiond/0.1') ]) ],
    [ 'an answer left over',         'malformed', sub ($s, $f) { $f->{type} eq 'P' ? [ 'keep', $VALUE . hello($f) ] : undef } ],
    [ 'another server\'s greeting',  'malformed', sub ($s, $f) { $f->{type} eq 'P' ? [ 'keep', reply('K', "$f->{nonce}redis/7.0") ] : undef } ],
    [ 'a short hello',               'malformed', on(P => [ 'keep', reply('K', 'x') ]) ],
    [ 'an HTTP server',              'malformed', on(P => [ 'close', "HTTP/1.1 400 Bad Request\r\n\r\n" ]) ],
    [ 'an SSH server',               'malformed', on(P => [ 'keep', "SSH-2.0-OpenSSH_9.2\r\n" ]) ],
    [ 'OK instead of a value',       'malformed', on(G => [ 'keep', "OK\nOK" ]) ],
    [ 'an unknown status',           'malformed', on(G => [ 'keep', reply('Z', 'x') ]) ],
    [ 'a value without a version',   'malformed', on(G => [ 'keep', reply('V', '1234567') ]) ],
    [ 'a length of 4 GB',            'malformed', on(G => [ 'keep', "V\xff\xff\xff\xff" ]) ],
    [ 'a "none" that has a body',    'malformed', on(G => [ 'keep', reply('N', 'x') ]) ],
    [ 'a K to a get',                'malformed', on(G => [ 'keep', reply('K', '12345678') ]) ],
    [ 'a B to a get',                'malformed', on(G => [ 'keep', reply('B') ]) ],
    [ 'an E to a get',               'refused',   on(G => [ 'keep', reply('E', "out of\nmemory") ]) ],
    [ 'an E to the hello',           'refused',   on(P => [ 'keep', reply('E', 'not today') ]) ],
);

# The same with a plain sharedance, whose F has no length to hold it to.
my @plain_troubles = (
    [ 'plain: a reset instead of data',  'reset',   on(F => ['reset']) ],
    [ 'plain: a reset after half',       'reset',   on(F => [ 'reset', 'n|i:4' ]) ],
    [ 'plain: a reset after all of it',  'reset',   on(F => [ 'reset', $OLD ]) ],
    [ 'plain: silence',                  'timeout', on(F => ['stall']), $SHORT ],
    [ 'plain: silence after half',       'timeout', on(F => [ 'stall', 'n|i:4' ]), $SHORT ],
    [ 'plain: a dribble',                'timeout', on(F => [ 'dribble', 'n|s:1000:"' . 'x' x 5000 ]), $SHORT ],
    [ 'a tunnel with nothing behind it', 'refused', sub { ['close'] } ],
);

sub failed_read ($name, $kind, $server, $dsn, $strict) {
    my $got = page($dsn, $ID, $COUNT, 'session.use_strict_mode' => $strict);
    like($got->{out}, qr/\Athrew Sessiond\\SessiondException\($CODE{$kind}\): session outa\.\.\. cannot be read from \S+: [^\n]+\n\z/,
        "$name: session_start() throws ($kind)");
    is($got->{err}, '', "$name: and that is all");
    is($server->value($ID), $OLD, "$name: the data is as it was") if $server;
    return $got;
}

for my $way ([ 0, 'on' ], [ 1, 'on' ], [ 0, 'off' ], [ 1, 'off' ]) {
    my ($strict, $lock) = @$way;
    subtest "the read, strict mode $strict, lock $lock" => sub {
        for my $case (@read_troubles, @plain_troubles) {
            my ($name, $kind, $hook, $options) = @$case;
            $kind = 'locked' if $name =~ /^a B/ && $lock eq 'on';
            my $speak  = $name =~ /^plain|tunnel/ ? 'sharedance' : 'sessiond';
            my $server = FakeServer->start(speak => $speak, hook => $hook)->put($ID, $OLD);
            my $got    = failed_read($name, $kind, $server, $server->dsn(($options // $LONG) . "&lock=$lock"), $strict);
            cmp_ok($got->{seconds}, '<', $SOON, "$name: in time") if $options;
            my $types = $server->types;
            unlike($types, qr/[WTRD]/, "$name: nothing was written");
            unlike($types, qr/S/, "$name: nor stored") unless $name =~ /tunnel/;
            is($types =~ tr/P//, 1, "$name: not tried again") unless $kind =~ /reset|closed/ || $speak ne 'sessiond';
            cmp_ok($types =~ tr/P//, '<=', 3, "$name: tried three times at most");
            is(join(' ', $server->held), '', "$name: no lock is left");
            $server->hook_off;
            is(page($server->dsn($LONG), $ID, $COUNT)->{out}, "n=42\n", "$name: afterwards the session is there");
        }
        failed_read('nobody listens', 'unreachable', undef, 'tcp://127.0.0.1:' . claim_port(), $strict);
        failed_read('no such socket', 'unreachable', undef, 'unix:///nonexistent/socket', $strict);
    };
}

subtest 'a listener that never accepts' => sub {
    my $deaf = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1) or die $@;
    my @waiting = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $deaf->sockport, Blocking => 0) } 1 .. 4;
    my $got = failed_read('a full backlog', 'timeout', undef, 'tcp://127.0.0.1:' . $deaf->sockport . $SHORT, 0);
    cmp_ok($got->{seconds}, '<', $SOON, 'in time');
    my $folder = File::Temp->newdir('sessiond-XXXXXX', DIR => '/tmp');
    my $unix   = IO::Socket::UNIX->new(Local => "$folder/s", Listen => 1) or die $!;
    my @crowd  = map { IO::Socket::UNIX->new(Type => Socket::SOCK_STREAM, Peer => "$folder/s", Blocking => 0) } 1 .. 2;
    $got = failed_read('a full backlog of a Unix socket', 'timeout', undef, "unix://$folder/s$SHORT", 0);
    cmp_ok($got->{seconds}, '<', $SOON, 'in time');
};

subtest 'on a Unix socket a close is no sharedance' => sub {
    my $server = FakeServer->start(on => 'unix', hook => on(P => ['close']))->put($ID, $OLD);
    failed_read('a close', 'closed', $server, $server->dsn($LONG), 0);
    is($server->types, 'PPP', 'F was not even tried');
};

# name, kind, hook, time-out, and whether the value may have been stored.
my @write_troubles = (
    [ 'a reset instead of OK',     'reset',     on(W => ['reset']) ],
    [ 'half an answer',            'reset',     on(W => [ 'reset', "K\0\0\0\x08\0\0" ]) ],
    [ 'an end instead of OK',      'closed',    on(W => ['close']) ],
    [ 'silence',                   'timeout',   on(W => ['stall']), $SHORT ],
    [ 'an E',                      'refused',   on(W => [ 'keep', reply('E', 'memory full') ]) ],
    [ 'nonsense',                  'malformed', on(W => [ 'keep', 'XXXXXXXXXXXXX' ]) ],
    [ 'a value to a write',        'malformed', on(W => [ 'keep', $VALUE ]) ],
    [ 'a version of 4 bytes',      'malformed', on(W => [ 'keep', reply('K', 'abcd') ]) ],
    [ 'more than was asked for',   'malformed', on(G => [ 'keep', $VALUE . 'extra' ]) ],
    [ 'plain: a reset',            'reset',     on(S => ['reset']) ],
    [ 'plain: a close',            'refused',   on(S => ['close']) ],
    [ 'plain: half an OK',         'malformed', on(S => [ 'close', 'OK' ]) ],
    [ 'plain: half an OK, reset',  'reset',     on(S => [ 'reset', 'OK' ]) ],
    [ 'plain: no OK',              'malformed', on(S => [ 'close', "NO\n" ]) ],
    [ 'plain: silence',            'timeout',   on(S => ['stall']), $SHORT ],
);
my %SAYS = (
    reset => qr/reset/, closed => qr/closed/, timeout => qr/no complete answer within timeout=0\.3 s/,
    refused => qr/refuses: memory full|without OK/, malformed => qr/no answer|not sharedance's OK|more than was asked for/
);

for my $lazy (0, 1) {
    subtest 'the write, ' . ($lazy ? 'unchanged and lazy' : 'changed') => sub {
        for my $case (@write_troubles) {
            my ($name, $kind, $hook, $options) = @$case;
            my $server = FakeServer->start(speak => $name =~ /^plain/ ? 'sharedance' : 'sessiond', hook => $hook);
            $server->put($ID, $OLD);
            my $page = $lazy ? 'echo "n=42\n";' : $COUNT;
            my $got = page($server->dsn($options // $LONG), $ID,
                "$page session_write_close(); echo \"the page goes on\\n\";", 'session.lazy_write' => $lazy);
            is($got->{out}, "n=42\nthe page goes on\n", "$name: no exception");
            my $verb = $lazy ? 'renewed' : 'stored';
            like($got->{err}, qr/^Warning: session outa\.\.\. was not $verb at tcp:\S+: .*$SAYS{$kind}/m, "$name: our warning");
            like($got->{err}, qr/^Warning: session_write_close\(\): Failed to write session data/m, "$name: PHP's warning");
            is($got->{status}, 0, "$name: no fatal error");
            is($server->value($ID), $OLD, "$name: the old value is kept");
            $got = page($server->dsn($options // $LONG), $ID, $page, 'session.lazy_write' => $lazy);
            like($got->{err}, qr/^Warning: session outa\.\.\. was not $verb/m, "$name: at the end of the page as well");
        }
    };
}

subtest 'a server that stops reading' => sub {
    for my $way (qw(deaf sip)) {
        my $server = FakeServer->start(hook => on(G => [ $way, $VALUE ]))->put($ID, $OLD);
        my $got = page($server->dsn($SHORT), $ID, '$_SESSION["n"] = str_repeat("x", 16 << 20);');
        like($got->{err}, qr/was not stored .*timeout=0\.3 s/, "$way: a write of 16 MB fails");
        cmp_ok($got->{seconds}, '<', $SOON, "$way: in time");
        is($server->value($ID), $OLD, "$way: the old value is kept");
    }
};

subtest 'a refusal that comes before all is sent' => sub {
    my $child;
    my $port = do {
        # Takes the hello and the get, then reads a little of the write, says E and resets.
        my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 5) or die $@;
        $child = fork // die $!;
        if (!$child) {
            while (my $client = $listener->accept) {
                my $input = '';
                sysread $client, $input, 4096, length $input while length $input < 9 + 5 + length $ID;
                syswrite $client, reply('K', substr($input, 1, 8) . 'mod_sessiond/0.1') . reply('N');
                sysread $client, $input, 65536;
                syswrite $client, reply('E', 'larger than SessiondMaxSize (32M)');
                shutdown $client, 1;
                select undef, undef, undef, 0.3;    # gives the client time to fill the pipe, then resets
                close $client;
            }
            POSIX::_exit(0);
        }
        $listener->sockport;
    };
    my $got = page("tcp://127.0.0.1:$port$LONG", $ID, '$_SESSION["n"] = str_repeat("x", 32 << 20);', memory_limit => '1G');
    like($got->{err}, qr/was not stored .*the server refuses: larger than SessiondMaxSize/, 'the server\'s reason is told');
    kill KILL => $child;
    waitpid $child, 0;
};

subtest 'survived' => sub {
    for my $case (
        [ 'one reset instead of a hello', sub { my $n = 0; sub ($s, $f) { $f->{type} eq 'P' && !$n++ ? ['reset'] : undef } } ],
        [ 'two resets',                   sub { my $n = 0; sub ($s, $f) { $f->{type} eq 'P' && $n++ < 2 ? ['reset'] : undef } } ],
        [ 'one end within a value',       sub { my $n = 0; sub ($s, $f) { $f->{type} =~ /[GL]/ && !$n++ ? [ 'close', $HALF ] : undef } } ],
        [ 'the connection closed while the page runs', sub { my $n = 0; sub ($s, $f) { $f->{type} =~ /[GL]/ && !$n++ ? [ 'close', $VALUE ] : undef } } ],
        [ 'the connection reset while the page runs',  sub { my $n = 0; sub ($s, $f) { $f->{type} =~ /[GL]/ && !$n++ ? [ 'reset', $VALUE ] : undef } } ],
        [ 'one reset instead of the OK',  sub { my $n = 0; sub ($s, $f) { $f->{type} eq 'W' && !$n++ ? ['reset'] : undef } } ],
        [ 'an OK that was lost',          sub { my $n = 0; sub ($s, $f) { return if $f->{type} ne 'W' || $n++; $s->set(@$f{qw(key data)}); ['reset'] } } ],
        [ 'plain: one reset at the fetch', sub { my $n = 0; sub ($s, $f) { $f->{type} eq 'F' && !$n++ ? [ 'reset', 'n|i' ] : undef } } ],
        [ 'plain: one reset at the store', sub { my $n = 0; sub ($s, $f) { $f->{type} eq 'S' && !$n++ ? ['reset'] : undef } } ],
        )
    {
        my ($name, $make_hook) = @$case;
        my $server = FakeServer->start(speak => $name =~ /^plain/ ? 'sharedance' : 'sessiond', hook => $make_hook->())->put($ID, $OLD);
        my $got = page($server->dsn($LONG . ($name =~ /^plain/ ? '&lock=off' : '')), $ID, $COUNT);
        is("$got->{out}$got->{err}", "n=42\n", "$name: nobody notices");
        is($server->value($ID), 'n|i:42;', "$name: and the value is stored");
    }
};

subtest 'after a failed read' => sub {
    my $server = FakeServer->start(hook => on(G => ['reset']))->put($ID, $OLD);
    my $code = '$h = new Sessiond\SessiondHandler("' . $server->dsn($LONG) . '"); $h->open("", "PHPSESSID");'
        . "try { \$h->read('$ID'); echo 'read'; } catch (Sessiond\\SessiondException \$e) { echo \$e->getCode(), \"\\n\"; }"
        . "var_dump(\$h->write('$ID', 'blank'), \$h->updateTimestamp('$ID', 'blank'));";
    my $got = php($code);
    is($got->{out}, "5\nbool(false)\nbool(false)\n", 'the handler itself refuses a write');
    like($got->{err}, qr/was not stored.*not read before.*was not renewed.*not read before/s, 'and says why');
    unlike($server->types, qr/[WT]/, 'nothing was sent');
    is($server->value($ID), $OLD, 'the data is as it was');

    # A page that catches the exception and goes on.
    $server = FakeServer->start(hook => do { my $n = 0; sub ($s, $f) { $f->{type} =~ /[GL]/ && $n++ < 3 ? ['reset'] : undef } })->put($ID, $OLD);
    $got = php("session_id('$ID'); try { session_start(); } catch (Sessiond\\SessiondException \$e) { echo session_status(), ' '; }"
            . ' $_SESSION["n"] = 7; echo "went on\n";', 'session.save_path' => $server->dsn($LONG));
    is($got->{out}, "1 went on\n", 'no session is active');
    unlike($server->types, qr/[WT]/, 'nothing is written at the end of the page');
    $server->hook_on;
    $got = php("session_id('$ID'); try { session_start(); } catch (Sessiond\\SessiondException \$e) { echo 'caught '; session_id('$ID'); session_start(); } $COUNT",
        'session.save_path' => $server->dsn($LONG));
    is($got->{out}, "n=42\n", 'a page that tries again gets the real data');

    # session_reset() in the middle of a page.
    $server = FakeServer->start(hook => do { my $n = 0; sub ($s, $f) { $f->{type} =~ /[GL]/ && $n++ ? ['reset'] : undef } })->put($ID, $OLD);
    $got = page($server->dsn($LONG), $ID, '$_SESSION["n"] = 7; try { session_reset(); echo "reset"; } catch (Sessiond\SessiondException $e) { echo "threw ", session_status(), "\n"; }');
    is($got->{out}, "threw 1\n", 'session_reset(): throws and ends the session');
    is($server->value($ID), $OLD, 'and nothing is written');
};

subtest 'destroy and regenerate' => sub {
    for my $case ([ 'a reset', ['reset'] ], [ 'half an OK', [ 'close', 'O' ] ], [ 'a close though the session is there', ['close'] ]) {
        my ($name, $order) = @$case;
        for my $speak (qw(sessiond sharedance)) {
            my $server = FakeServer->start(speak => $speak, hook => on(D => $order))->put($ID, $OLD);
            my $got = page($server->dsn($LONG), $ID, 'var_dump(session_destroy());');
            is($got->{out}, "bool(false)\n", "$speak, $name: session_destroy() is false");
            like($got->{err}, qr/Warning: session outa\.\.\. was not removed at/, "$speak, $name: a warning says so");
            $got = page($server->dsn($LONG), $ID, 'var_dump(session_regenerate_id(true)); echo session_status();');
            is($got->{out}, "bool(false)\n1", "$speak, $name: session_regenerate_id(true) is false");
            is($server->value($ID), $OLD, "$speak, $name: the session is still there");
        }
    }
    my $stale = FakeServer->start(hook => do { my $n = 0; sub ($s, $f) { $f->{type} =~ /[GL]/ && !$n++ ? [ 'close', $VALUE ] : undef } })->put($ID, $OLD);
    my $got = page($stale->dsn($LONG), $ID, 'var_dump(session_destroy());');
    is("$got->{out}$got->{err}", "bool(true)\n", 'an idle connection that was closed is no "already gone"');
    is($stale->value($ID), undef, 'the session is removed');

    my $server = FakeServer->start(hook => on(W => ['reset']))->put($ID, $OLD);
    $got = page($server->dsn($LONG), $ID, '$_SESSION["n"]++; var_dump(session_regenerate_id()); echo session_status(), session_id() === "' . $ID . '" ? "same" : "new";');
    is($got->{out}, "bool(false)\n1same", 'session_regenerate_id(): false when the old session cannot be written');
    is($server->value($ID), $OLD, 'the session is as it was');
};

subtest 'a page\'s own error handler' => sub {
    my $strict_handler = 'set_error_handler(function ($n, $s) { throw new ErrorException($s); });';
    my $got = page('tcp://127.0.0.1:' . claim_port(), $ID, '');
    my $with = php("$strict_handler try { session_id('$ID'); session_start(); } catch (Throwable \$e) { echo get_class(\$e); }",
        'session.save_path' => 'tcp://127.0.0.1:' . claim_port());
    is($with->{out}, 'Sessiond\\SessiondException', 'a refused connection is our exception, whatever the page does to warnings');
    my $server = FakeServer->start(hook => on(G => [ 'deaf', $VALUE ]))->put($ID, $OLD);
    $with = php("$strict_handler session_id('$ID'); session_start(); \$_SESSION['n'] = str_repeat('x', 16 << 20);"
            . 'try { session_write_close(); } catch (ErrorException $e) { echo $e->getMessage(); }', 'session.save_path' => $server->dsn($SHORT));
    like($with->{out}, qr/^session outa\.\.\. was not stored .*timeout=0\.3 s/, 'a failed write reaches the page\'s handler with our sentence');
};

# PHP shows arguments in a stack trace, as does many a tool that collects errors.
subtest 'what a stack trace shows' => sub {
    plan skip_all => 'PHP before 8.2 cannot hide an argument' unless php('echo PHP_VERSION_ID;')->{out} >= 80200;
    my @ini = ('zend.exception_ignore_args' => 0, 'zend.exception_string_param_max_len' => 1000);
    my $show = 'echo $e, json_encode($e->getTrace(), JSON_PARTIAL_OUTPUT_ON_ERROR);';
    my $server = FakeServer->start(hook => on(W => ['reset']))->put($ID, $OLD);
    my $dsn = $server->dsn("$LONG&on_error=throw");
    for my $strict (0, 1) {
        my $got = php("try { session_id('$ID'); session_start(); } catch (Throwable \$e) { $show }",
            'session.save_path' => 'tcp://127.0.0.1:' . claim_port(), 'session.use_strict_mode' => $strict, @ini);
        like($got->{out}, qr/session outa\.\.\. cannot be read/, "strict $strict: a failed read says why");
        unlike($got->{out}, qr/outage-0/, "strict $strict: and not whose session it was");
        $got = php("try { session_id('$ID'); session_start(); \$_SESSION['n'] = 'secret'; session_write_close(); } catch (Throwable \$e) { $show }",
            'session.save_path' => $dsn, 'session.use_strict_mode' => $strict, @ini);
        like($got->{out}, qr/session outa\.\.\. was not stored/, "strict $strict: a failed write says why");
        unlike($got->{out}, qr/outage-0|secret/, "strict $strict: and neither whose session it was nor what is in it");
    }
    for my $call ('destroy($id)', 'read($id . "/")', 'write($id, "secret")', 'updateTimestamp($id, "secret")', 'destroy($id . "/")') {
        my $got = php("\$id = '$ID'; \$h = new Sessiond\\SessiondHandler('tcp://127.0.0.1:" . claim_port() . "?on_error=throw');"
                . "try { \$h->open('', ''); \$h->$call; } catch (Throwable \$e) { $show }", @ini);
        like($got->{out}, qr/^Sessiond\\SessiondException: /, "$call: throws");
        unlike($got->{out}, qr/outage-0|secret/, "$call: shows no id and no data");
    }
};

subtest 'cookies in strict mode' => sub {
    my $server = FakeServer->start->put($ID, $OLD);
    my $folder = File::Temp->newdir('sessiond-XXXXXX', DIR => '/tmp');
    open my $script, '>', "$folder/index.php" or die $!;
    print {$script} '<?php try { session_start(); ' . $COUNT . ' } catch (Sessiond\SessiondException $e) { http_response_code(503); echo "outage\n"; }';
    close $script;
    my $web     = web($folder, 'session.save_path' => $server->dsn($LONG), 'session.use_strict_mode' => 1);
    my $trouble = web($folder, 'session.save_path' => 'tcp://127.0.0.1:' . claim_port() . $LONG, 'session.use_strict_mode' => 1);
    for my $round (1, 2) {
        my ($status, $body, $header) = web_request($trouble, '/', cookie => "PHPSESSID=$ID");
        is("$status $body", "503 outage\n", 'an outage shows');
        is_deeply($header->{'set-cookie'}, undef, 'and leaves the user\'s cookie alone');
        ($status, $body, $header) = web_request($web, '/', cookie => "PHPSESSID=$ID");
        is("$status $body", '200 n=' . (41 + $round) . "\n", 'then the session is there, under the same id');
        is_deeply($header->{'set-cookie'}, undef, 'no new cookie');
    }
    my ($status, $body, $header) = web_request($web, '/', cookie => 'PHPSESSID=nobody-knows-this-one-00');
    is("$status $body", "200 n=1\n", 'an unknown id gets a blank session');
    like($header->{'set-cookie'}[0], qr/^PHPSESSID=[0-9a-z]{20,};/, 'and a new id');
};

done_testing();
