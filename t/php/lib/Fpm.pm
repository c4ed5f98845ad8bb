# SPDX-License-Identifier: Apache-2.0
#
# Fpm: a private php-fpm for one test file, on a Unix socket below the private
# httpd's root, so that mod_proxy_fcgi reaches it. No php.ini, as in PhpTest. It
# stays in the foreground as the test's child and is ended by its pid. php-fpm
# would outlive a test that is killed, so a guard process holds the end of a pipe
# and ends it then.
package Fpm;
use v5.36;

use POSIX qw(:sys_wait_h);
use IO::Socket::UNIX ();
use PhpTest;
use Sessiond::Test::Httpd ();
use Sessiond::Test::Net qw(now nap is_alive);

my $LIMIT = 60;

# Debian calls it by its version.
sub binary ($class = undef) {
    state $binary = do {
        my ($found) = grep { -x } map { ("$_/php-fpm", reverse sort glob "$_/php-fpm[0-9]*") } split(/:/, $ENV{PATH}), '/usr/sbin';
        $found;
    };
    return $binary;
}

# What httpd's configuration needs; pages below /fpm/ are run here.
sub httpd_config ($class) {
    return <<'END';
<LocationMatch "^/fpm/.*\.php$">
    SetHandler "proxy:unix:%ROOT%/run/fpm.sock|fcgi://fpm"
</LocationMatch>
END
}

# httpd:   a Sessiond::Test::Httpd, whose root it lives in
# workers: how many
# ini:     { name => value }
sub start ($class, %arg) {
    my $root = $arg{httpd}->root;
    my $self = bless { workers => 4, ini => {}, %arg, owner => $$, root => $root, socket => "$root/run/fpm.sock" }, $class;
    my $user = $> == 0 ? sprintf("user = %s\ngroup = %s\n", Sessiond::Test::Httpd->web_user) : '';
    open my $config, '>', "$root/fpm.conf" or die "$root/fpm.conf: $!\n";
    print {$config} <<"END", map { qq{php_value[$_] = "$self->{ini}{$_}"\n} } sort keys %{ $self->{ini} };
[global]
error_log = $root/fpm.log
daemonize = no
[www]
listen = $self->{socket}
listen.mode = 0666
listen.backlog = 511
${user}pm = static
pm.max_children = $self->{workers}
clear_env = no
catch_workers_output = yes
END
    close $config or die $!;
    pipe my $read, my $write or die "pipe: $!\n";
    $self->{pid} = fork // die "fork: $!\n";
    if ($self->{pid} == 0) {
        close $write;
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP PIPE);
        open STDIN,  '<', '/dev/null';
        open STDOUT, '>>', "$root/fpm.out";
        open STDERR, '>&', \*STDOUT;
        exec { binary() } binary(), '-n', '-y', "$root/fpm.conf", '-F' or POSIX::_exit(127);
    }
    $self->_guard($read, $write);
    my $until = now() + $LIMIT;
    while (now() < $until && !waitpid $self->{pid}, WNOHANG) {
        return $self if IO::Socket::UNIX->new(Peer => $self->{socket});
        nap(0.02);
    }
    die "php-fpm did not start: " . $self->log;
}

# Ends the master when the test has gone without a word.
sub _guard ($self, $read, $write) {
    my $pid = fork // die "fork: $!\n";
    if ($pid == 0) {
        POSIX::setsid();
        $SIG{$_} = 'IGNORE' for qw(INT TERM HUP PIPE);
        POSIX::close($_) for grep { $_ > 2 && $_ != fileno $read } 0 .. 63;
        my $word = '';
        1 while !defined sysread $read, $word, 64;
        kill TERM => $self->{pid} if $word eq '';
        POSIX::_exit(0);
    }
    close $read;
    @$self{qw(guard guard_pipe)} = ($pid, $write);
    return;
}

sub pid ($self) { return $self->{pid} }

sub log ($self) {
    my $text = '';
    for my $name ("$self->{root}/fpm.log", "$self->{root}/fpm.out") {
        open my $fh, '<', $name or next;
        local $/;
        $text .= readline($fh) // '';
    }
    return $text;
}

# True when TERM was enough.
sub stop ($self) {
    my $pid = delete $self->{pid} or return 1;
    kill TERM => $pid;
    my $until = now() + 20;
    my $ended = 0;
    nap(0.02) until ($ended = waitpid($pid, WNOHANG)) || now() > $until;
    if (!$ended) { kill KILL => $pid; waitpid $pid, 0 }
    syswrite $self->{guard_pipe}, 'done';
    close $self->{guard_pipe};
    waitpid $self->{guard}, 0;
    return $ended == $pid;
}

sub DESTROY ($self) {
    local ($?, $@);
    $self->stop if $self->{owner} == $$;
    return;
}

1;
