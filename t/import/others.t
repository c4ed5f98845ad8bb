#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Sessions of Redis and of memcached move by way of a directory, which
# php/examples/moving/to-files.php fills: the real servers, and sessions as
# PHP's extensions for them write them. What is not installed is left out.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use POSIX ();
use IO::Socket::INET ();
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client ();
use Sessiond::Test::Import qw(run_import new_directory);
use Sessiond::Test::Net    qw(now nap claim_port is_alive);

my ($php) = grep { length && -x } $ENV{PHP} // '', map { "$_/php" } split /:/, $ENV{PATH};
plan skip_all => 'php is not installed' unless $php;

my $h = Sessiond::Test::Httpd->new(name => 'others', config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 64M
END
my $server = '127.0.0.1:' . $h->port;
my $script = Sessiond::Test::Httpd->top_srcdir . '/php/examples/moving/to-files.php';
my $c = Sessiond::Test::Client->new($h->port);
my @started;
END { my $status = $?; for my $pid (grep { is_alive($_) } @started) { kill KILL => $pid; waitpid $pid, 0 } $? = $status }

sub start_daemon ($port, @command) {
    my $pid = fork // die "fork: $!\n";
    if ($pid == 0) {
        open STDIN,  '<', '/dev/null';
        open STDOUT, '>', '/dev/null';
        open STDERR, '>', '/dev/null';
        no warnings 'exec';
        exec { $command[0] } @command;
        POSIX::_exit(127);
    }
    push @started, $pid;
    $h->wait_for(sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) }, 60, "$command[0] on port $port");
    return;
}

# What PHP says; the code gets the arguments in $argv.
sub php ($code, @arguments) {
    open my $pipe, '-|', $php, '-d', 'session.use_cookies=0', '-d', 'session.cache_limiter=', '-r', $code, '--', @arguments
        or die "$php: $!\n";
    my $said = do { local $/; readline $pipe };
    close $pipe;
    return $said // '';
}

sub to_files (@arguments) {
    open my $pipe, '-|', $php, $script, @arguments or die "$php: $!\n";
    my $said = do { local $/; readline $pipe };
    close $pipe;
    return ($? >> 8, $said // '');
}

my $write = <<'END';
ini_set('session.save_handler', $argv[1]);
ini_set('session.save_path', $argv[2]);
ini_set('session.gc_maxlifetime', $argv[3]);
for ($n = 1; $n <= 200; $n++) {
    session_id("id$argv[3]-$n");
    session_start();
    $_SESSION = ['n' => $n, 'bytes' => str_repeat("\0\r\n\xff", $n)];
    session_write_close();
}
echo "written\n";
END

for my $case (['redis', 'redis-server', sub ($port, $dir) { ('--port', $port, '--bind', '127.0.0.1', '--save', '', '--dir', $dir) },
        sub ($port) { "tcp://127.0.0.1:$port" }],
    ['memcached', 'memcached', sub ($port, $dir) { ('-l', '127.0.0.1', '-p', $port, '-U', 0, $> == 0 ? ('-u', 'nobody') : ()) },
        sub ($port) { "127.0.0.1:$port" }]) {
    my ($kind, $name, $options, $save_path) = @$case;
    subtest $kind => sub {
        my ($program) = grep { -x } map { "$_/$name" } split(/:/, $ENV{PATH}), '/usr/sbin';
        plan skip_all => "$name is not installed" unless $program;
        plan skip_all => "PHP has no $kind" if php("echo extension_loaded('$kind') ? 'yes' : 'no';") ne 'yes';
        my ($port, $dir) = (claim_port(), new_directory());
        start_daemon($port, $program, $options->($port, "$dir"));
        is(php($write, $kind, $save_path->($port), $_), "written\n", "PHP writes sessions that live for $_ s") for 30, 1000;

        my $files = "$dir/files";
        is_deeply([to_files($kind, "tcp://127.0.0.1:$port", $files)], [0, "400 sessions\n"], 'they are written to files');
        my $run = run_import('-e', 1440, 'sharedance', $files, $server);
        is_deeply([$run->{status}, $run->{sum}{imported}], [0, 400], 'and imported') or diag $run->{out}, $run->{err};
        is(($c->get('id1000-200'))[1]{data}, "n|i:200;bytes|s:800:\"" . "\0\r\n\xff" x 200 . '";', 'byte by byte');
        is((to_files($kind, "tcp://127.0.0.1:$port", $files))[0], 0, 'again');
        ok($h->eventually(sub { ($c->get('id30-1'))[1]{type} eq 'N' }, 60), 'the short lifetime ends');
        is(($c->get('id1000-1'))[1]{type}, 'V', 'the long one does not');
        # The old store's clock may be a coarser one.
        ok($h->eventually(sub { (to_files($kind, "tcp://127.0.0.1:$port", $files))[1] eq "200 sessions\n" }), 'the files follow');
        is(scalar(my @left = glob "$files/*"), 200, 'and go');
        $c->remove("id1000-$_") for 1 .. 200;
    };
}

subtest 'PHP writes its files, our handler reads the sessions' => sub {
    my $dir = new_directory();
    for my $first (0 .. 9, 'a' .. 'z') { mkdir "$dir/$first"; mkdir "$dir/$first/$_" for 0 .. 9, 'a' .. 'z' }
    is(php($write, 'files', "2;0600;$dir", 1440), "written\n", 'into two levels of directories');
    my $held = open my $holder, '-|', $php, '-d', 'session.use_cookies=0', '-d', 'session.cache_limiter=', '-r',
        "ini_set('session.save_path', '2;$dir');" . 'session_id("id-held"); session_start(); echo "locked\n"; flush(); sleep(600);'
        or die "$php: $!\n";
    readline $holder;
    my $run = run_import('php', "2;0600;$dir", $server);
    is_deeply([$run->{status}, @{ $run->{sum} }{ 'imported', 'skipped: in use' }], [1, 200, 1], 'imported, but one that a page has open')
        or diag $run->{out}, $run->{err};
    kill TERM => $held;
    close $holder;
    my $said = php(<<'END', Sessiond::Test::Httpd->top_srcdir, $server);
require "$argv[1]/php/autoload.php";
Sessiond\SessiondHandler::register("tcp://$argv[2]");
for ($n = 1; $n <= 200; $n++) {
    session_id("id1440-$n");
    session_start();
    if ($_SESSION !== ['n' => $n, 'bytes' => str_repeat("\0\r\n\xff", $n)]) {
        echo "id1440-$n: ", var_export($_SESSION, true), "\n";
    }
    session_abort();
}
echo "read\n";
END
    is($said, "read\n", 'and each is what it was');
    is_deeply([@{ run_import('php', "2;$dir", $server)->{sum} }{ 'imported', 'already there', 'skipped: empty' }], [0, 200, 1],
        'what the page has left is empty');
};

subtest 'what is wrong' => sub {
    my $dir = new_directory();
    open my $saved, '>&', \*STDERR;
    open STDERR, '>', '/dev/null';
    is((to_files('redis', 'tcp://127.0.0.1:' . claim_port(), "$dir/new"))[0], 1, 'nobody there: an error');
    is((to_files('etcd', 'tcp://127.0.0.1:1', $dir))[0], 1, 'another store: an error');
    chmod 0755, $dir;
    is((to_files('redis', 'tcp://127.0.0.1:1', $dir))[0], 1, 'a directory that is open to others: an error');
    open STDERR, '>&', $saved;
};

is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
