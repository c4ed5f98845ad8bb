#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# fence.t: requests of one user that overlap, without locks (lock.t is about
# those). The last writer wins, but a session that another request removed (a log-out) never comes
# back, and a page that changed nothing never puts its old copy over another
# one's work. The other request is played by the server's hook at the exact
# moment that matters, then by real PHP processes.
use v5.36;
use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/lib';
use Test::More;
use FakeServer;
use PhpTest;
use Sessiond::Test::Net qw(now nap);

plan skip_all => 'no php' unless php_binary();

my $ID    = 'fence-0123456789abcdefghi';
my $LONG  = '?timeout=60&lock=off';
my $COUNT = '$_SESSION["n"] = ($_SESSION["n"] ?? 0) + 1; echo "n=", $_SESSION["n"], "\n";';

# At the n-th frame of a type, does something as another client would.
sub meanwhile (%at) {
    my %seen;
    return sub ($server, $frame) {
        my $what = $at{ $frame->{type} . ++$seen{ $frame->{type} } } // return;
        $what->($server);
        return;
    };
}
my $write    = sub ($server) { $server->set($ID, 'other|i:1;') };
my $remove   = sub ($server) { $server->unset($ID) };
my $recreate = sub ($server) { $server->unset($ID); $server->set($ID, 'other|i:2;') };
my $OURS     = 'n|i:42;';

# name, there at the read?, meanwhile, what is stored at the end, frames, warning
for my $case (
    [ 'nobody else',                        1, {}, $OURS, 'PGW' ],
    [ 'another wrote',                      1, { W1 => $write }, $OURS, 'PGWGW' ],
    [ 'others wrote three times',           1, { W1 => $write, W2 => $write, W3 => $write }, $OURS, 'PGWGWGWGW' ],
    [ 'another removed it',                 1, { W1 => $remove }, undef, 'PGWG', 1 ],
    [ 'one wrote, then one removed it',     1, { W1 => $write, W2 => $remove }, undef, 'PGWGWG', 1 ],
    [ 'removed before we could look again', 1, { W1 => $write, G2 => $remove }, undef, 'PGWG', 1 ],
    [ 'removed and begun anew',             1, { W1 => $recreate }, $OURS, 'PGWGW' ],
    [ 'new, another began it too',          0, { W1 => $write }, 'n|i:1;', 'PGWGW' ],
    [ 'new, begun and removed meanwhile',   0, { W1 => $write, G2 => $remove }, undef, 'PGWG', 1 ],
    )
{
    my ($name, $there, $meanwhile, $stored, $frames, $warns) = @$case;
    my $server = FakeServer->start(hook => meanwhile(%$meanwhile));
    $server->put($ID, 'n|i:41;') if $there;
    my $got = page($server->dsn($LONG), $ID, "$COUNT session_write_close(); echo \"goes on\\n\";");
    is($got->{out}, 'n=' . ($there ? 42 : 1) . "\ngoes on\n", "changed, $name: the page goes on");
    is($server->value($ID), $stored, "changed, $name: what is stored");
    is($server->types, $frames, "changed, $name: frames");
    if ($warns) {
        like($got->{err}, qr/^Warning: session fenc\.\.\. was not stored at tcp:\S+: another request has removed it meanwhile, and it stays removed/m,
            "changed, $name: a warning");
        like($got->{err}, qr/Failed to write session data/, "changed, $name: write() was false");
    }
    else { is($got->{err}, '', "changed, $name: no warning") }
}

# The same for a page that changed nothing: whatever the others did stays.
for my $case (
    [ 'nobody else',            {}, 'n|i:41;', 'PGW' ],
    [ 'another wrote',          { W1 => $write }, 'other|i:1;', 'PGW' ],
    [ 'another removed it',     { W1 => $remove }, undef, 'PGW' ],
    [ 'removed and begun anew', { W1 => $recreate }, 'other|i:2;', 'PGW' ],
    )
{
    my ($name, $meanwhile, $stored, $frames) = @$case;
    my $server = FakeServer->start(hook => meanwhile(%$meanwhile))->put($ID, 'n|i:41;');
    my $before = $server->version($ID);
    my $got = page($server->dsn($LONG), $ID, 'var_dump(session_write_close());');
    is("$got->{out}$got->{err}", "bool(true)\n", "unchanged, $name: nothing to complain about");
    is($server->value($ID), $stored, "unchanged, $name: what is stored");
    is($server->types, $frames, "unchanged, $name: frames");
    cmp_ok($server->version($ID), '>', $before, 'unchanged: the lifetime was renewed by a write') unless %$meanwhile;
}

subtest 'versions within one page' => sub {
    my $server = FakeServer->start;
    my $got = page($server->dsn($LONG), $ID, "$COUNT session_write_close(); session_start(); $COUNT session_write_close(); session_start(); $COUNT");
    is("$got->{out}$got->{err}", "n=1\nn=2\nn=3\n", 'three sessions in a row');
    is($server->types, 'PGWPGWPGW', 'no write met a wrong version');
    $got = page($server->dsn($LONG), $ID, 'session_regenerate_id(); session_write_close(); echo session_id();');
    unlike($server->types, qr/WG+W.*WG/, 'regenerate: neither');
    is($server->value($got->{out}), 'n|i:3;', 'the new id has the data');
};

subtest 'the handler by itself' => sub {
    my $server = FakeServer->start;
    my $got = php('$h = new Sessiond\SessiondHandler("' . $server->dsn($LONG) . '"); $h->open("", "x"); $i = "' . $ID . '"; echo json_encode(['
            . '$h->read($i), $h->write($i, "one"), $h->write($i, "two"), $h->updateTimestamp($i, "two"), $h->read($i), $h->destroy($i), $h->gc(1), $h->close()]);');
    is("$got->{out}$got->{err}", '["",true,true,true,"two",true,0,true]', 'every function gives what the interfaces say');
    is($server->types, 'PGWWWGR', 'a write takes the version that the write before gave');
};

subtest 'a server that only says B' => sub {
    my $server = FakeServer->start(hook => sub ($s, $f) { $f->{type} eq 'W' ? [ 'keep', FakeServer::reply('B') ] : undef })->put($ID, 'n|i:41;');
    my $got = page($server->dsn('?timeout=0.5&lock=off'), $ID, $COUNT);
    like($got->{err}, qr/was not stored .*(?:timeout=0\.5|another request holds its lock)/, 'is given up');
    cmp_ok($got->{seconds}, '<', 20, 'in time');
};

# --- real processes -----------------------------------------------------------

# Runs pages at the same time; each waits in its session until all are there.
sub at_once ($dsn, $n, $code) {
    my $folder = File::Temp->newdir('sessiond-XXXXXX', DIR => '/tmp');
    my $meet   = "touch('$folder/' . getmypid()); while (count(glob('$folder/*')) < $n) usleep(5000);";
    my @readers;
    for my $i (1 .. $n) {
        my $pid = open(my $reader, '-|') // die "fork: $!\n";
        if (!$pid) {
            my $got = page($dsn, $ID, '$i = ' . $i . "; $meet $code");
            print "$got->{out}$got->{err}";
            close STDOUT;
            POSIX::_exit(0);
        }
        push @readers, $reader;
    }
    return map { my $fh = $_; join '', <$fh> } @readers;
}

for my $speak (qw(sessiond sharedance)) {
    my $server = FakeServer->start(speak => $speak)->put($ID, 'n|i:41;');
    my @out = at_once($server->dsn($LONG), 6, '$_SESSION = ["who" => $i, "pad" => str_repeat((string) $i, 20000)]; session_write_close(); echo "done\n";');
    is(join('', @out), "done\n" x 6, "$speak: six pages write at once, nobody complains");
    like($server->value($ID), qr/^who\|i:(\d);pad\|s:20000:"\1{20000}";$/, "$speak: one of them is stored, whole");
}

subtest 'a log-out while a slow page runs' => sub {
    my $server = FakeServer->start->put($ID, 'user|s:5:"alice";');
    my $folder = File::Temp->newdir('sessiond-XXXXXX', DIR => '/tmp');
    my $pid = open(my $slow, '-|') // die "fork: $!\n";
    if (!$pid) {
        my $got = page($server->dsn($LONG), $ID, "\$_SESSION['page'] = 'slow'; touch('$folder/in'); while (!file_exists('$folder/out')) usleep(5000);");
        print $got->{err};
        close STDOUT;
        POSIX::_exit(0);
    }
    my $until = now() + 60;
    nap(0.01) until -e "$folder/in" || now() > $until;
    my $logout = page($server->dsn($LONG), $ID, 'var_dump(session_destroy());');
    is("$logout->{out}$logout->{err}", "bool(true)\n", 'the user logs out');
    open my $signal, '>', "$folder/out" or die $!;
    like(join('', <$slow>), qr/was not stored .*removed it meanwhile/, 'the slow page ends with a warning');
    is($server->value($ID), undef, 'and the session stays removed');
};

done_testing();
