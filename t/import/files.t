#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Which files sessiond-import takes, and which not: sharedance's directory,
# PHP's save path with its levels, dates, locks, links, odd names. A second run
# must change nothing, and nothing may be overwritten unless that was asked for.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Fcntl qw(:flock);
use POSIX ();
use Socket qw(AF_UNIX SOCK_STREAM pack_sockaddr_un);
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client ();
use Sessiond::Test::Import qw(run_import start_import finish_import new_directory put_session);
use Sessiond::Test::Net    qw(now nap);

my $h = Sessiond::Test::Httpd->new(name => 'files', config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 64M
END
my $server = '127.0.0.1:' . $h->port;
my $c = Sessiond::Test::Client->new($h->port);

# The values of these keys, undef for none.
sub values_of (@keys) {
    my ($outcome, @replies) = $c->call(map { Sessiond::Test::Client::frame_get($_) } @keys);
    die "get: $outcome\n" if $outcome ne 'ok';
    return map { $_->{type} eq 'V' ? $_->{data} : undef } @replies;
}

sub value_of ($key) { return (values_of($key))[0] }

sub is_sum ($run, $status, $sum, $name) {
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $sum = { imported => 0, 'already there' => 0, expired => 0, %$sum };
    is_deeply([$run->{status}, $run->{sum}], [$status, $sum], $name) or diag $run->{out}, $run->{err};
}

subtest 'a sharedance directory' => sub {
    my $dir = new_directory();
    my $binary = join('', map { chr } 0 .. 255) x 40;
    my $odd = '!"#$%&\'()*+,-:;<=>?@[]^_`{|}~';
    put_session($dir, 'plain', 'one', 10);
    put_session($dir, 'binary', $binary, 10);
    put_session($dir, $odd, 'odd', 10);
    put_session($dir, 'k' x 250, 'longest', 10);
    put_session($dir, 'nearly', 'two', 1780);
    put_session($dir, 'over', 'three', 1801);
    put_session($dir, 'future', 'four', -86_400);
    put_session($dir, 'half', '', 10);
    put_session($dir, '.under-way', 'temporary', 1);
    put_session($dir, 'k' x 251, 'too long', 10);
    put_session($dir, 'with blank', 'five', 10);
    put_session($dir, "control\x01", 'six', 10);
    put_session($dir, "high\x80", 'seven', 10);
    put_session($dir, 'a.b', 'eight', 10);
    put_session($dir, 'folder/inner', 'nine', 10);
    symlink "$dir/plain", "$dir/link" or die "symlink: $!\n";
    POSIX::mkfifo("$dir/fifo", 0600) or die "mkfifo: $!\n";
    socket my $socket, AF_UNIX, SOCK_STREAM, 0 or die "socket: $!\n";
    bind $socket, pack_sockaddr_un("$dir/socket") or die "bind: $!\n";

    my %other = ('skipped: empty' => 1, 'skipped: bad key' => 5, 'skipped: half stored' => 1,
        'skipped: not a regular file' => 4);
    my $run = run_import('sharedance', $dir, $server);
    is_sum($run, 0, { imported => 6, expired => 1, %other }, 'what is imported, and what is not');
    is($run->{err}, '', 'nothing is said besides');
    is_deeply([values_of('plain', 'binary', $odd, 'k' x 250, 'nearly', 'future')],
        ['one', $binary, 'odd', 'longest', 'two', 'four'], 'the values are there');
    is_deeply([values_of(qw(over half a.b link folder inner fifo))], [(undef) x 7], 'and no others');
    is($h->value('Sessions'), 6, 'six sessions in all');
    ok($h->eventually(sub { !defined value_of('nearly') }, 60), 'what had twenty seconds left ends');
    is(value_of('plain'), 'one', 'what had half an hour stays');

    put_session($dir, 'nearly', 'two', 10);
    is_sum(run_import('sharedance', $dir, $server), 0, { imported => 1, 'already there' => 5, expired => 1, %other },
        'a second run takes what is new');
    my $verbose = run_import('--verbose', 'sharedance', $dir, $server);
    like($verbose->{err}, qr/^sessiond-import: with\.\.\.: skipped: bad key \(no key that the server takes\)$/m,
        'verbose: names each that is left out');
    unlike($verbose->{err}, qr/with blank|under-way/, 'by its beginning only');
};

subtest 'PHP: no levels' => sub {
    my $dir = new_directory();
    put_session($dir, 'sess_0aZ,-', 'a|i:1;', 10);
    put_session($dir, 'sess_live', 'b|i:1;', 1400);
    put_session($dir, 'sess_dead', 'c|i:1;', 1441);
    put_session($dir, 'sess_', 'd', 10);
    put_session($dir, 'sess_a_b', 'e', 10);
    put_session($dir, 'other', 'f', 10);
    put_session($dir, 'x/sess_xyz', 'g', 10);
    my @found = (imported => 2, expired => 1, 'skipped: bad key' => 2, 'skipped: other name' => 2);
    is_sum(run_import('php', $dir, $server), 0, {@found}, 'a path');
    is_deeply([values_of('0aZ,-', 'live', 'dead', 'xyz')], ['a|i:1;', 'b|i:1;', undef, undef], 'the values, without sess_');
    is_sum(run_import('php', "0;$dir", $server, '--prefix', 'p:'), 0, {@found}, '"0;/path" and a prefix');
    is_deeply([values_of('p:0aZ,-', 'p:live')], ['a|i:1;', 'b|i:1;'], 'the prefix is put before');
    is_sum(run_import('--expiration=1800', 'php', $dir, $server), 0,
        { @found, imported => 1, 'already there' => 2, expired => 0 }, 'a longer expiration');
    is_sum(run_import('-e', '5', 'php', $dir, $server), 0, { @found, imported => 0, expired => 3 }, 'a shorter one');
};

subtest 'PHP: one level and two' => sub {
    my $dir = new_directory();
    put_session($dir, "$_/sess_${_}1one", "level one $_", 10) for 'a', 'B', '7', ',';
    put_session($dir, 'a/sess_b1', 'in the wrong directory', 10);
    put_session($dir, 'sess_c1', 'above', 10);
    put_session($dir, 'ab/sess_ab1', 'no level', 10);
    symlink "$dir/a", "$dir/Z" or die "symlink: $!\n";
    put_session($dir, 'f/x', 'no session', 10);
    put_session($dir, 'g', 'a file where a directory might be', 10);
    is_sum(run_import('php', "1;$dir", $server), 0, { imported => 4, 'skipped: misplaced' => 2,
        'skipped: other name' => 2, 'skipped: not a regular file' => 2 }, 'one level');
    is_deeply([values_of('a1one', 'B1one', '71one', ',1one', 'b1', 'c1', 'ab1')],
        ['level one a', 'level one B', 'level one 7', 'level one ,', undef, undef, undef], 'the values');

    put_session($dir, 'a/b/sess_ab2two', 'two', 10);
    put_session($dir, 'a/b/sess_ba2two', 'misplaced', 10);
    put_session($dir, 'a/b/c/sess_abc', 'too deep', 10);
    my $run = run_import('php', "2;0600;$dir", $server);
    is_deeply([$run->{status}, @{ $run->{sum} }{'imported', 'already there'}], [0, 1, 0], 'two levels, with a mode');
    is_deeply([values_of('ab2two', 'ba2two', 'abc')], ['two', undef, undef], 'the value');
    my $deep = new_directory();
    put_session($deep, join('/', split //, '0123456789abcdef') . '/sess_0123456789abcdef-x', 'deep', 10);
    is_sum(run_import('php', "16;$deep", $server), 0, { imported => 1 }, 'sixteen levels');
};

subtest 'nothing is overwritten, unless' => sub {
    my $dir = new_directory();
    put_session($dir, "over$_", 'from the file', 10) for 1 .. 3;
    $c->write('over1', 'newer on the server', 0);
    is_sum(run_import('sharedance', $dir, $server), 0, { imported => 2, 'already there' => 1 }, 'a session on the server is kept');
    is(value_of('over1'), 'newer on the server', 'as it is');
    my (undef, $locked) = $c->lock('over2');
    is($locked->{type}, 'V', 'one is locked');
    is_sum(run_import('--overwrite', 'sharedance', $dir, $server), 0, { imported => 2, 'already there' => 1 },
        '--overwrite: all but one that a request holds');
    is(value_of('over1'), 'from the file', 'it is overwritten');
    $c->unlock('over2');

    put_session($dir, 'fresh', 'after', 0);
    $c->write($_, 'server', 0) for qw(over1 fresh);
    my $since = int(time) - 5;
    is_sum(run_import('--overwrite', "--since=$since", 'sharedance', $dir, $server), 0,
        { imported => 1, 'not changed since' => 3 }, '--since: only what was changed since then');
    is_deeply([values_of(qw(over1 fresh))], ['server', 'after'], 'of these alone');
};

subtest 'a dry run changes nothing' => sub {
    my $dir = new_directory();
    put_session($dir, "dry$_", 'x' x 600_000, 10) for 1 .. 3;
    put_session($dir, 'dead', 'x', 9999);
    $c->write('dry3', 'there', 0);
    my $before = $h->status;
    my $run = run_import('-n', 'sharedance', $dir, $server);
    is_deeply([$run->{status}, @{ $run->{sum} }{'would be imported', 'already there', 'expired'}], [0, 2, 1, 1],
        'it says what would be') or diag $run->{out};
    my $after = $h->status;
    is_deeply([@$after{qw(SessiondSessions SessiondWrites)}], [@$before{qw(SessiondSessions SessiondWrites)}], 'nothing was written');
    $run = run_import('-n', '--overwrite', 'sharedance', $dir, $server);
    is($run->{sum}{'would be imported'}, 3, 'with --overwrite all of them would be');
    is(value_of('dry3'), 'there', 'and are not');
};

subtest 'a file that a request holds' => sub {
    my $dir = new_directory();
    my $path = put_session($dir, 'sess_held', 'before', 10);
    put_session($dir, 'sess_free', 'free', 10);
    open my $fh, '+<', $path or die "$path: $!\n";
    flock $fh, LOCK_EX or die "flock: $!\n";
    my $begin = now();
    my $run = run_import('--lock-wait=300', 'php', $dir, $server);
    is_sum($run, 1, { imported => 1, 'skipped: in use' => 1 }, 'it is skipped, and the status says so');
    cmp_ok(now() - $begin, '>=', 0.29, 'after a while');
    my $waiting = start_import('--lock-wait=60000', 'php', $dir, $server);
    nap(0.5);
    syswrite $fh, 'after, and longer';
    close $fh;
    is_sum(finish_import($waiting), 0, { imported => 1, 'already there' => 1 }, 'or waited for');
    is(value_of('held'), 'after, and longer', 'and then has what the request wrote');
};

subtest 'a lock for reading is no obstacle' => sub {
    my $dir = new_directory();
    my $path = put_session($dir, 'sess_read', 'data', 10);
    open my $fh, '<', $path or die "$path: $!\n";
    flock $fh, LOCK_SH or die "flock: $!\n";
    is_sum(run_import('php', $dir, $server), 0, { imported => 1 }, 'two readers');
};

subtest 'nothing is written to the directory' => sub {
    my $dir = new_directory();
    my $path = put_session($dir, 'still', 'data', 100);
    my @before = ((stat $path)[7 .. 10], (stat "$dir")[9, 10]);
    run_import('sharedance', $dir, $server);
    is(value_of('still'), 'data', 'it was imported');
    is_deeply([(stat $path)[7 .. 10], (stat "$dir")[9, 10]], \@before, 'the times are as they were, that of the access too');
};

# Runs it as an ordinary user, since root may read everything.
sub run_as_user (@arguments) {
    return run_import(@arguments) if $> != 0;
    my ($name) = Sessiond::Test::Httpd->web_user;
    my (undef, undef, $uid, $gid) = getpwnam $name;
    my $program = Sessiond::Test::Httpd->scratch('as-user');
    open my $script, '>', $program or die "$program: $!\n";
    print {$script} "#!$^X\n\$) = '$gid $gid'; \$( = $gid; \$< = \$> = $uid;\n",
        'exec { "', Sessiond::Test::Import::tool(), "\" } 'sessiond-import', \@ARGV;\n";
    close $script;
    chmod 0755, $program;
    local $ENV{SESSIOND_IMPORT} = $program;
    return run_import(@arguments);
}

subtest 'files and directories that may not be read' => sub {
    my $dir = new_directory();
    chmod 0755, $dir;
    put_session($dir, "$_/sess_${_}1", 'secret', 10) for qw(a b c);
    chmod 0644, "$dir/c/sess_c1";
    chmod 0, "$dir/a/sess_a1", "$dir/b";
    is_sum(run_as_user('php', "1;$dir", $server), 1, { imported => 1, 'skipped: unreadable' => 2 },
        'are counted, and the status says so');
    chmod 0700, "$dir/b";
};

is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
