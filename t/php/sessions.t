#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# sessions.t: every session function of PHP through our handler, in real PHP
# processes, against a well-behaved server: over TCP, IPv6 and a Unix socket,
# against one that has no locks yet, and against a plain sharedance, each with strict mode, lazy_write and the
# serializer both ways. A session made by one process must be seen by the next.
# What a page changes in a shutdown function of its own counts, too.
# The frames that the server counted show that no round trip is wasted.
use v5.36;
use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/lib';
use Test::More;
use FakeServer;
use PhpTest;
use Sessiond::Test::Net qw(has_ipv6);

plan skip_all => 'no php' unless php_binary();

# Prints, for a page, what a page would do with it.
my $COUNT = '$_SESSION["n"] = ($_SESSION["n"] ?? 0) + 1; echo session_id(), " ", $_SESSION["n"], "\n";';
my $SHOW  = 'echo session_id(), " ", json_encode($_SESSION), "\n";';

sub clean ($got, $name) {
    ok($got->{err} eq '' && $got->{status} == 0 && $got->{out} !~ /^threw/m, "$name: without a complaint")
        or diag("status $got->{status}, out: $got->{out}, err: $got->{err}");
    return $got->{out};
}

sub lifecycle ($label, $server, %ini) {
    my $dsn  = $server->dsn($server->{speak} eq 'sharedance' ? '?lock=off' : '');
    my $page = sub ($id, $code, $name) { return clean(page($dsn, $id, $code, %ini), $name) };

    subtest $label => sub {
        my ($id, $n) = split ' ', $page->(undef, $COUNT, 'a new session');
        like($id, qr/^[A-Za-z0-9,-]{22,}$/, 'has an id of PHP\'s making');
        is($n, 1, 'starts at 1');
        is($page->($id, $COUNT, 'a second process'), "$id 2\n", 'sees the first one\'s session');
        is($page->($id, $SHOW, 'an unchanged session'), qq{$id {"n":2}\n}, 'stays');
        is($page->($id, $SHOW, 'and again'), qq{$id {"n":2}\n}, 'is still there');

        is($page->($id, 'session_regenerate_id(); ' . $COUNT . 'echo "old ok\n";', 'regenerate_id(false)')
                =~ s/^(\S+)/N/r, "N 3\nold ok\n", 'takes the data along');
        is($page->($id, $SHOW, 'the old id'), qq{$id {"n":2}\n}, 'is still a session');

        my ($new, $new_n) = split ' ', $page->($id, 'session_regenerate_id(true); ' . $COUNT, 'regenerate_id(true)');
        isnt($new, $id, 'gives a new id');
        is($new_n, 3, 'takes the data along');
        is($server->value($id), undef, 'removes the old session');
        is($page->($new, $SHOW, 'the new id'), qq{$new {"n":3}\n}, 'has the data');

        my ($fresh) = split ' ', $page->(undef, 'session_regenerate_id(true); ' . $COUNT, 'regenerate_id(true) of a new session');
        ok(defined $server->value($fresh), 'is stored under the new id');

        is($page->($new, '$_SESSION["n"] = 99; session_reset(); ' . $SHOW, 'session_reset'), qq{$new {"n":3}\n}, 'brings the data back');
        is($page->($new, '$_SESSION["n"] = 99; session_abort(); echo session_status() === PHP_SESSION_NONE ? "none\n" : "?\n";', 'session_abort'),
            "none\n", 'ends the session');
        is($page->($new, $SHOW, 'after it'), qq{$new {"n":3}\n}, 'nothing has changed');

        is(clean(php("session_id('$new'); session_start(['read_and_close' => true]); \$_SESSION['n'] = 77; $SHOW", 'session.save_path' => $dsn, %ini),
                'read_and_close'), qq{$new {"n":77}\n}, 'reads');
        is($page->($new, $SHOW, 'after it'), qq{$new {"n":3}\n}, 'nothing was written');

        is($page->($new, 'session_write_close(); session_start(); $_SESSION["n"]++; session_commit(); session_start(); ' . $SHOW,
                'start, close, start'), qq{$new {"n":4}\n}, 'works within one page');
        is($page->($new, 'unset($_SESSION["n"]);', 'a session emptied'), '', 'is written');
        is($page->($new, $SHOW, 'an empty session'), "$new []\n", 'is a session, and keeps its id');
        is($page->($new, $COUNT, 'filling it again'), "$new 1\n", 'works');

        is($page->($new, 'echo json_encode(session_gc()), "\n";', 'session_gc'), "0\n", 'has nothing to do');
        is($page->($new, 'echo json_encode(session_destroy()), session_status(), "\n";', 'session_destroy'), "true1\n", 'ends the session');
        is($server->value($new), undef, 'and removes it');
        is($page->(undef, 'echo json_encode(session_destroy()), "\n";', 'session_destroy of a session never stored'), "true\n", 'is no failure');

        my $after = $page->($new, $SHOW, 'its id again');
        if ($ini{'session.use_strict_mode'}) { unlike($after, qr/^\Q$new\E /, 'is refused: a new id') }
        else                                 { is($after, "$new []\n", 'is an empty session') }
        is(join(' ', $server->held), '', 'no lock is left');
        ok(!grep({ /99|77/ } map { $server->value($_) } $server->keys), 'no value that was given up is stored anywhere');
    };
    return;
}

my @servers = (
    [ 'mod_sessiond, TCP', on => 'tcp' ],
    [ 'mod_sessiond, Unix socket', on => 'unix' ],
    [ 'mod_sessiond without locks', on => 'tcp', features => 'fence' ],
    [ 'plain sharedance', on => 'tcp', speak => 'sharedance' ],
    has_ipv6() ? [ 'mod_sessiond, IPv6', on => 'tcp6' ] : (),
);
for my $case (@servers) {
    my ($label, %arg) = @$case;
    my $server = FakeServer->start(%arg);
    for my $strict (0, 1) {
        for my $lazy (0, 1) {
            next if $strict != $lazy && $label =~ /Unix|IPv6|without/;    # the handler's part is the same there
            # One axis may ride on another: the serializer knows nothing of strict mode.
            my $serializer = $strict == $lazy ? 'php' : 'php_serialize';
            lifecycle("$label, strict $strict, lazy_write $lazy, $serializer", $server,
                'session.use_strict_mode' => $strict, 'session.lazy_write' => $lazy,
                'session.serialize_handler' => $serializer);
        }
    }
    ok($server->stop, "$label: the fake server ends well");
}

subtest 'round trips' => sub {
    my $server = FakeServer->start;
    my $id     = 'roundtrips-0123456789ab';
    for my $case (
        [ 'a new session',      0, 0, 'PLW' ],
        [ 'a changed session',  0, 0, 'PLW' ],
        [ 'in strict mode',     1, 0, 'PLW' ],
        [ 'unchanged and lazy', 0, 1, 'PLT' ],
        [ 'all of it',          1, 1, 'PLT' ],
        )
    {
        my ($name, $strict, $lazy, $wanted) = @$case;
        clean(page($server->dsn, $id, $lazy ? '' : $COUNT, 'session.use_strict_mode' => $strict, 'session.lazy_write' => $lazy), $name);
        is($server->frames =~ s/\d+:| //gr, $wanted, $name);
    }
    page($server->dsn, $id, 'session_destroy();');
    is($server->frames =~ s/^(\d+):P \1:L \1:R$/one connection/r, 'one connection', 'destroy uses the open connection');
    page($server->dsn, undef, 'session_destroy();', 'session.use_strict_mode' => 1);
    is($server->types, 'PLR', 'a new id of our own making is not looked up twice');
    page($server->dsn, 'unknown-0123456789abcdef', '', 'session.use_strict_mode' => 1);
    is($server->frames =~ s/\d+://gr, 'P L U L W', 'an unknown id in strict mode: unlocked, and both on one connection');
    php('session_id("' . $id . '"); session_start(["read_and_close" => true]);', 'session.save_path' => $server->dsn);
    is($server->types, 'PG', 'read_and_close needs no lock');
    php('session_id("' . $id . '"); session_start(); session_abort();', 'session.save_path' => $server->dsn);
    is($server->types, 'PL', 'session_abort ends the connection, and with it the lock');
    page($server->dsn, 'never-0123456789abcdefghi', '');
    is($server->types, 'PLW', 'an empty new session is stored at once: there is nothing to touch');
    php('echo "no session\n";', 'session.save_path' => $server->dsn);
    is($server->frames, '', 'a page without a session asks nobody');
};

subtest 'values of all kinds' => sub {
    my $server = FakeServer->start;
    my $plain  = FakeServer->start(speak => 'sharedance');
    for my $to ($server, $plain) {
        my $kind = $to->{speak};
        my $off  = $kind eq 'sharedance' ? '&lock=off' : '';
        my $id   = 'values-0123456789abcdef0';
        my $hash = 'echo md5($_SESSION["v"]), " ", strlen($_SESSION["v"]), "\n";';
        for my $case (
            [ 'all bytes', 'implode("", array_map("chr", range(0, 255)))' ],
            [ 'the mark of an empty session', '"|N;"' ],
            [ '2 MB that do not repeat', 'substr(str_repeat(hash("sha512", "x", true), 2), 0) . random_bytes(2 << 20)' ],
            [ '5 MB of zeros', 'str_repeat("\0", 5 << 20)' ],
            )
        {
            my ($name, $value) = @$case;
            my $stored = clean(page($to->dsn("?timeout=60$off"), $id, "\$_SESSION['v'] = $value; $hash"), "$kind: $name");
            my $read   = clean(page($to->dsn("?timeout=60$off"), $id, $hash), "$kind: $name, second process");
            like($stored, qr/^[0-9a-f]{32} \d+$/, "$kind: $name was stored");
            is($read, $stored, "$kind: $name came back whole");
        }
    }
    is(clean(page($server->dsn('?prefix=shop-'), 'prefixed-0123456789abcde', $COUNT), 'a prefix'), "prefixed-0123456789abcde 1\n", 'does not show in the id');
    like($server->value('shop-prefixed-0123456789abcde'), qr/^n\|i:1;/, 'and stands before the key');
    is($server->value('prefixed-0123456789abcde'), undef, 'the bare id is no key');
    ok(!grep({ length > 250 } $server->keys), 'no key is too long');
    clean(page($server->dsn('?prefix=shop%3E'), 'prefixed-0123456789abcde', $COUNT), 'a prefix that no id can hold');
    like($server->value('shop>prefixed-0123456789abcde'), qr/^n\|i:1;/, 'is taken');
    for my $strict (0, 1) {
        my $other = clean(page($server->dsn, 'shop>prefixed-0123456789abcde', $COUNT, 'session.use_strict_mode' => $strict), "strict $strict: such an id elsewhere");
        like($other, qr/^[0-9a-z,-]+ 1$/, "strict $strict: is none");
    }
};

subtest 'ids' => sub {
    my $server = FakeServer->start;
    my %wrong  = (
        'a slash' => 'aaaaaaaaaaaaaaaaaaaaaa/aaa', 'a dot' => '../../../../etc/passwd.x', 'a space' => 'aaaaaaaaaaaaaaaa aaaaaaa',
        'NUL' => "aaaaaaaaaaaaaaa\0aaaaaaaaa", 'a line feed' => "aaaaaaaaaaaaaaaaaaa\naaaaaa", 'a high byte' => "aaaaaaaaaaaaaaaaaaaa\xe4aaaa",
        '251 bytes' => 'a' x 251, '10000 bytes' => 'a' x 10_000,
    );
    for my $name (sort keys %wrong) {
        my $strict = page($server->dsn, $wrong{$name}, $COUNT, 'session.use_strict_mode' => 1);
        like($strict->{out}, qr/^[A-Za-z0-9,-]{26,40} 1$/, "$name, strict: replaced by a new id");
        is($strict->{err}, '', "$name, strict: no complaint");
        $server->frames;
        # PHP itself drops some of these before it asks a handler.
        my $loose = page($server->dsn, $wrong{$name}, $COUNT);
        if ($loose->{out} =~ /^threw/) {
            like($loose->{out}, qr/^threw Sessiond\\SessiondException\(2\): .*(?:not allowed|too long)/, "$name: a clear exception");
            is($server->frames, '', "$name: nothing was sent");
        }
        else {
            like($loose->{out}, qr/^[A-Za-z0-9,-]{26,40} 1$/, "$name: PHP itself gave a new id");
            is($server->types, 'PLW', "$name: only that one travelled");
        }
        unlike($loose->{out}, qr/aaaaaaaa|etc.passwd/, "$name: the id is not shown");
    }
    ok(!grep({ /[^A-Za-z0-9,-]/ } $server->keys), 'none of them became a key');

    like(page($server->dsn, undef, $COUNT, 'session.sid_length' => 250)->{out}, qr/^\S{250} 1$/, 'sid_length 250 fits');
    like(page($server->dsn('?prefix=ab'), undef, $COUNT, 'session.sid_length' => 249)->{out},
        qr/^threw Sessiond\\SessiondException\(1\): session\.sid_length is 249.*at most 248/, 'sid_length that does not: says so');
    for my $bits (4, 5, 6) {
        like(page($server->dsn, undef, $COUNT, 'session.sid_length' => 22, 'session.sid_bits_per_character' => $bits)->{out},
            qr/^[A-Za-z0-9,-]{22} 1$/, "sid_length 22, $bits bits per character");
    }
    is(page($server->dsn, undef, 'echo strlen(session_create_id("pre-")), "\n";', 'session.sid_length' => 30)->{out}, "34\n", 'session_create_id() with a prefix');

    # Strict mode must not swap the id of a session that is new in this request.
    is(clean(page($server->dsn, undef, '$a = session_id(); session_reset(); echo $a === session_id() ? "same" : "swapped", "\n";', 'session.use_strict_mode' => 1),
            'session_reset of a new session'), "same\n", 'keeps its id');
    is(clean(php('session_start(["read_and_close" => true]); $a = session_id(); session_start(); echo $a === session_id() ? "same" : "swapped", "\n";',
                'session.save_path' => $server->dsn, 'session.use_strict_mode' => 1), 'read_and_close, then start, of a new session'), "same\n", 'keeps its id');
};

subtest 'registering' => sub {
    my $server = FakeServer->start;
    my $src    = top_srcdir() . '/php';
    my $who    = 'echo ini_get("session.save_handler"), " ", session_module_name(), "\n";';
    my %dsn    = ('session.save_path' => $server->dsn);
    is(php($who, %dsn)->{out}, "user user\n", 'prepend.php registers the handler for a DSN');
    is(php($who, 'session.save_path' => '/tmp')->{out}, "files files\n", 'and for nothing else');
    is(clean(php("require '$src/prepend.php'; include '$src/prepend.php'; $who", %dsn), 'prepend.php three times'), "user user\n", 'does no harm');
    my $folder = File::Temp->newdir('sessiond-XXXXXX', DIR => '/tmp');
    is(clean(php("session_save_path('$folder'); session_start(); \$_SESSION['a'] = 1; include '$src/prepend.php'; echo session_module_name(), ' ', session_status(), \"\\n\";",
                'session.save_path' => '/tmp', 'auto_prepend_file' => ''), 'prepend.php with a session active'), "files 2\n", 'does nothing');
    my $own = 'class Own extends SessionHandler {} session_set_save_handler(new Own, true);';
    is(clean(php("$own include '$src/prepend.php'; session_save_path('$folder'); session_start(); echo session_status(), \"\\n\";", %dsn, 'auto_prepend_file' => ''),
            'a page\'s own handler'), "2\n", 'is left alone');
    is($server->types, '', 'the server was not asked');
    is(clean(php("ini_set('session.save_path', '" . $server->dsn . "'); require '$src/prepend.php'; $who", 'auto_prepend_file' => ''), 'a late include'), "user user\n", 'registers');
    is(clean(php("require '$src/autoload.php'; Sessiond\\SessiondHandler::register('" . $server->dsn . "'); session_start(); echo 'yes', \"\\n\";",
                'auto_prepend_file' => '', 'session.save_path' => '/nonexistent'), 'register() with a DSN'), "yes\n", 'needs no save_path');
    like($server->types, qr/^PLW/, 'and reaches the server');
    like(php('session_start();', 'session.save_path' => 'tcp://127.0.0.1:99999')->{err},
        qr/Uncaught Sessiond\\SessiondException.*"99999" is not a number from 1 to 65535/s, 'a wrong DSN: session_start() throws');
    for my $nearly ('unix:/run/sessiond.sock', 'TCP://127.0.0.1:1042', 'tcp:127.0.0.1:1042') {
        like(php('session_start(); echo "blank\n";', 'session.save_path' => $nearly)->{err},
            qr/Uncaught Sessiond\\SessiondException: session\.save_path "\Q$nearly\E": it does not begin with tcp:\/\/ or unix:\/\//, "$nearly is refused, not taken for a folder");
    }
    like(page('/tmp', undef, 'echo "blank\n";', 'auto_prepend_file' => '')->{out}, qr/^blank$/m, 'without a DSN PHP is as ever');
};

subtest 'shutdown functions of the page' => sub {
    my $server = FakeServer->start;
    my $id     = 'shutdown-0123456789abcdefg';
    my $late   = 'register_shutdown_function(function () { $_SESSION["n"] = ($_SESSION["n"] ?? 0) + 1; echo session_status(), "\n"; });';
    for my $pool ('', '&persistent=on') {
        is(clean(page($server->dsn("?timeout=60$pool"), $id, $late), "after the start$pool"), "2\n", 'have the session');
    }
    is($server->value($id), 'n|i:2;', 'and what they change is stored');
    is(clean(php("$late session_id('$id'); session_start();", 'session.save_path' => $server->dsn), 'before the start'), "2\n", 'so do earlier ones');
    is($server->value($id), 'n|i:3;', 'and what they change is stored');
    php("session_id('$id'); session_start(); \$_SESSION['n'] = 7; register_shutdown_function(function () { exit; });", 'session.save_path' => $server->dsn);
    is($server->value($id), 'n|i:7;', 'one that exits keeps nothing from being stored');
    php("session_id('$id'); session_start(); \$_SESSION['n'] = 8; register_shutdown_function(function () { throw new Exception('enough'); });", 'session.save_path' => $server->dsn);
    is($server->value($id), 'n|i:8;', 'nor does one that throws');
    is(join(' ', $server->held), '', 'no lock is left');
};

done_testing();
