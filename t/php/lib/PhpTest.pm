# SPDX-License-Identifier: Apache-2.0
#
# PhpTest: runs PHP as the tests need it: a fresh process per page, with no
# php.ini (so no extension but what PHP has built in), every error shown, and
# our prepend.php in front. Each process gets a time limit, so that a handler
# that hangs fails one test instead of stopping the suite. web() starts PHP's
# own web server for what only a web SAPI shows: cookies and status codes.
package PhpTest;
use v5.36;

use Cwd            qw(abs_path);
use File::Basename qw(dirname);
use File::Temp     ();
use POSIX          qw(:sys_wait_h);
use Exporter       qw(import);
use IO::Select       ();
use IO::Socket::INET ();
use MIME::Base64   qw(encode_base64);
use lib dirname(__FILE__) . '/../../lib';
use Sessiond::Test::Net qw(now nap claim_port processes);

our @EXPORT = qw(php page web web_request php_binary top_srcdir php_ini);

my $LIMIT = 60;    # seconds one PHP process may take on a stalled machine
my $owner = $$;

my @web;

sub top_srcdir () { return abs_path($ENV{abs_top_srcdir} // dirname(__FILE__) . '/../../..') }

sub php_binary () {
    state $binary = do {
        my ($found) = grep { -x } defined $ENV{PHP} && $ENV{PHP} =~ m{/} ? $ENV{PHP}
            : map { "$_/" . ($ENV{PHP} || 'php') } split /:/, $ENV{PATH};
        $found;
    };
    return $binary;
}

# Settings for one page: no cookies and no cache headers, since a command line
# has neither, and all errors in plain text on stderr.
sub php_ini (%ini) {
    return (
        'auto_prepend_file'     => top_srcdir() . '/php/prepend.php',
        'error_reporting'       => -1,
        'display_errors'        => 'stderr',
        'html_errors'           => 0,
        'log_errors'            => 0,
        'session.use_cookies'   => 0,
        'session.cache_limiter' => '',
        %ini
    );
}

sub _arguments (%ini) {
    return ('-n', map { ('-d', "$_=" . ($ini{$_} =~ /[^\w.\/:-]/ ? qq{"$ini{$_}"} : $ini{$_})) } sort keys %ini);
}

sub _dir () {
    state $dir = File::Temp->newdir('sessiond-php-XXXXXX', DIR => '/tmp');
    return $dir;
}

sub _file ($code) {
    state $n = 0;
    my $name = _dir() . "/page$$-" . ++$n . '.php';
    open my $fh, '>', $name or die "$name: $!\n";
    print {$fh} "<?php\n$code\n";
    close $fh or die "$name: $!\n";
    return $name;
}

# Runs a piece of PHP. Returns { out, err, status, seconds }.
sub php ($code, %ini) {
    my $file = _file($code);
    my %ini_with_defaults = php_ini(%ini);
    my $start = now();
    my $pid   = _start("$file.out", "$file.err", php_binary(), _arguments(%ini_with_defaults), $file);
    my $ended;
    until ($ended = waitpid $pid, WNOHANG) {
        if (now() > $start + $LIMIT) {
            kill KILL => $pid;
            waitpid $pid, 0;
            last;
        }
        nap(0.003);
    }
    my $status = $? & 127 ? -1 : $? >> 8;
    return { out => _slurp("$file.out"), err => _slurp("$file.err"), status => $status, seconds => now() - $start };
}

sub _start ($out, $err, @command) {
    my $pid = fork // die "fork: $!\n";
    return $pid if $pid;
    $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP PIPE);
    open STDIN,  '<', '/dev/null';
    open STDOUT, '>', $out;
    open STDERR, '>', $err;
    exec { $command[0] } @command or POSIX::_exit(127);
}

sub _slurp ($name) {
    open my $fh, '<:raw', $name or return '';
    local $/;
    return readline($fh) // '';
}

# One page with a session: code runs between session_start() and the end of
# the request. An exception is printed as "threw CLASS(CODE): MESSAGE".
sub page ($dsn, $id, $code, %ini) {
    my $set_id = defined $id ? 'session_id(base64_decode("' . encode_base64($id, '') . '"));' : '';
    return php("try { $set_id session_start(); $code } catch (\\Throwable \$e) {"
            . ' echo "threw ", get_class($e), "(", $e->getCode(), "): ", $e->getMessage(), "\n"; }',
        'session.save_path' => $dsn, %ini);
}

# PHP's web server on a folder (a router script would get no prepend file).
# Returns { port, log }; ends with the test. extensions: with php.ini after all,
# for what cannot do without PHP's extensions.
sub web ($folder, %ini) {
    my %env = %{ delete $ini{env} // {} };
    my $extensions = delete $ini{extensions};
    my %settings = php_ini('session.use_cookies' => 1, %ini);
    for my $attempt (1 .. 5) {
        my $port = claim_port();
        my $log  = _dir() . "/web$port.log";
        local @ENV{ keys %env } = values %env;
        my $pid = _start($log, "$log.err", php_binary(), grep({ !$extensions || $_ ne '-n' } _arguments(%settings)), '-S', "127.0.0.1:$port", '-t', "$folder");
        push @web, $pid;
        for my $signal (qw(INT TERM HUP)) { $SIG{$signal} = sub { exit 1 } unless ref $SIG{$signal} }
        my $until = now() + $LIMIT;
        while (now() < $until && !waitpid $pid, WNOHANG) {
            return { port => $port, log => "$log.err" }
                if IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 5);
            nap(0.02);
        }
    }
    die "PHP's web server does not start\n";
}

# One HTTP request. Returns (status, body, { header => [values] }); status 0 and
# a reason when there was no answer.
sub web_request ($web, $path, %opt) {
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $web->{port}, Timeout => $LIMIT)
        or return (0, "connect: $!", {});
    my $body    = $opt{body} // '';
    my %headers = (Host => 'demo.test', Connection => 'close', %{ $opt{headers} // {} });
    $headers{Cookie} = $opt{cookie} if defined $opt{cookie};
    @headers{qw(Content-Length Content-Type)} = (length $body, 'application/x-www-form-urlencoded') if $body ne '';
    local $SIG{PIPE} = 'IGNORE';
    syswrite $socket, join '', ($opt{method} // 'GET') . " $path HTTP/1.0\r\n",
        (map { "$_: $headers{$_}\r\n" } sort keys %headers), "\r\n", $body;
    my ($answer, $until) = ('', now() + $LIMIT);
    my $select = IO::Select->new($socket);
    while (1) {
        return (0, 'timeout', {}) if now() > $until;
        next unless $select->can_read(1);
        last unless sysread $socket, $answer, 65536, length $answer;
    }
    my ($head, $content) = split /\r\n\r\n/, $answer, 2;
    my ($status) = ($head // '') =~ m{^HTTP/\S+ (\d+)} or return (0, 'no status line', {});
    my %got;
    push @{ $got{ lc $1 } }, $2 while $head =~ /^([\w-]+): *([^\r\n]*)/mg;
    return ($status, $content // '', \%got);
}

END {
    if ($owner == $$) {
        local $?;
        local @SIG{qw(INT TERM HUP)} = ('IGNORE') x 3;
        # Workers outlive their server; and a page that died in a signal's
        # handler leaves all signals blocked there.
        my %all = processes();
        my %is_web = map { $_ => 1 } @web;
        my @workers = grep { $is_web{ $all{$_}{ppid} } } keys %all;
        kill TERM => @web, @workers;
        for my $pid (@web) {
            my ($until, $ended) = (now() + 2, 0);
            nap(0.01) until ($ended = waitpid $pid, WNOHANG) || now() > $until;
            next if $ended;
            kill KILL => $pid;
            waitpid $pid, 0;
        }
        kill KILL => @workers;
    }
}

1;
