# SPDX-License-Identifier: Apache-2.0
#
# Sessiond::Test::Httpd: a private httpd for one test file: its own ServerRoot,
# its own ports, its own processes, and an end that comes whatever the test did
# to the configuration or to itself.
#
# httpd detaches itself, so it outlives a test that dies. Three things stand
# against that: finish() and END for the ordinary ways out, a handler for INT
# and TERM, and a guard process that holds the end of a pipe: when the test is
# gone by any death, the guard stops httpd's process group. Nothing is ever
# looked for by name. Lines in the error log that nobody allowed fail the test.
package Sessiond::Test::Httpd;
use v5.36;

use Carp           qw(croak);
use Cwd            qw(abs_path);
use File::Basename qw(basename dirname);
use File::Path     qw(make_path remove_tree);
use File::Spec     ();
use File::Temp     qw(tempdir);
use POSIX          qw(:sys_wait_h);
use Test::More     ();
use Sessiond::Test::Net qw(now nap claim_port http_request is_alive process_group);

my @instances;        # every server of this process
my $LONG = 60;        # seconds a condition may take on a stalled machine

# What the error log may not contain unless allowed.
my $UNEXPECTED = qr/\[[\w.-]*:(?:warn|error|crit|alert|emerg)\]|AddressSanitizer|LeakSanitizer
    |runtime\ error:|Segmentation|exit\ signal|[Aa]ssertion|\*\*\*\ /x;

sub top_srcdir ($class = undef) {
    return abs_path($ENV{abs_top_srcdir} || dirname(__FILE__) . '/../../../..');
}

sub _module_path () {
    return abs_path($ENV{SESSIOND_MODULE}) // die "SESSIOND_MODULE=$ENV{SESSIOND_MODULE}: $!\n"
        if $ENV{SESSIOND_MODULE};
    my $build = $ENV{abs_top_builddir} || top_srcdir();
    my ($built) = grep { -e } map { "$build/mod_sessiond/$_" } '.libs/mod_sessiond.so', 'mod_sessiond.so';
    return abs_path($built // die "no module: build it, or name it in SESSIOND_MODULE\n");
}

# What is compiled for the tests alone, as t/httpd/modules/mod_hostile.
sub test_library ($class, $name) {
    my $build = $ENV{abs_top_builddir} || top_srcdir();
    my $path  = "$build/" . dirname($name) . '/.libs/' . basename($name) . '.so';
    return abs_path($path) // die "$path: $! (make check builds it)\n";
}

sub _libexecdir () { return $ENV{APXS_LIBEXECDIR} || '/usr/lib/apache2/modules' }

my $binary;    # what is started

sub httpd_binary ($class = undef) {
    $binary //= $ENV{HTTPD} || (grep { -x } map { ("$_/apache2", "$_/httpd") }
            split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/apache2/bin')[0]
        // die "no httpd: name it in HTTPD\n";
    return $binary;
}

my $scratch;

# A path for a file that goes with the test.
sub scratch ($class, $name) {
    $scratch //= File::Temp->newdir('sessiond-XXXXXX', TMPDIR => 1);
    chmod 0755, $scratch;
    return "$scratch/" . $name =~ s/\W+/-/gr;
}

# Another one from now on: a wrapper around it.
sub use_binary ($class, $path) {
    $binary = $path;
    return;
}

sub _compiled_in ($source) {
    state $list = do { my $binary = httpd_binary(); scalar `"$binary" -l` };
    return $list =~ /^\s*\Q$source\E\s*$/m;
}

# mod_php's (name, path), or nothing where it isn't installed.
sub php_module ($class = undef) {
    my ($path) = reverse sort glob _libexecdir() . '/libphp*.so';
    return unless defined $path;
    return (($path =~ /libphp7/ ? 'php7_module' : 'php_module'), $path);
}

sub has_module ($class, $name) {
    return _compiled_in("mod_$name.c") || -e _libexecdir() . "/mod_$name.so";
}

sub _load ($name, $required) {
    my $path = _libexecdir() . "/mod_$name.so";
    my $source = $name =~ /^mpm_(.*)/ ? "$1.c" : "mod_$name.c";
    return '' if _compiled_in($source);
    return "LoadModule ${name}_module \"$path\"\n" if -e $path;
    die "httpd has no $name and there is no $path\n" if $required;
    return '';
}

# The user that web children and the session process run as when root starts.
sub web_user ($class = undef) {
    for my $name (grep { defined } $ENV{SESSIOND_TEST_USER}, qw(www-data apache http daemon nobody)) {
        my @user = getpwnam $name or next;
        return ($name, scalar getgrgid $user[3]);
    }
    die "no ordinary user to run httpd's children: name one in SESSIOND_TEST_USER\n";
}

# Children of a root httpd must be able to enter, and a Unix socket's path may
# not be longer than 107 bytes.
sub _make_root () {
    my $base = File::Spec->tmpdir;
    for (my $dir = $base; $> == 0 && $dir ne '/'; $dir = dirname($dir)) {
        $base = '/tmp' if !((stat $dir)[2] & 01);
    }
    $base = '/tmp' if length $base > 60;
    my $root = tempdir('sessiond-XXXXXX', DIR => $base, CLEANUP => 0);
    chmod 0755, $root;
    mkdir "$root/$_" for qw(run htdocs php);
    return abs_path($root);
}

# mpm:        event or prefork
# config:     directives, with %PORT%, %PORT2% .. %PORT9%, %HTTP%, %ROOT%
# mpm_config: replaces the few workers given here
# docs:       { name => content } below the DocumentRoot
# php:        mod_php with our handler in front of every page
# modules:    further modules, by their short names
# module:     0 leaves mod_sessiond out; a path loads that one
# preload:    libraries that only the tests have, see test_library()
# env:        { name => value } for httpd
sub new ($class, %arg) {
    my $self = bless {
        mpm => 'event', config => '', docs => {}, modules => [], log_level => 'info',
        module => undef, name => 'httpd', preload => [], env => {}, %arg,
        owner => $$, ports => {}, allowed => [], session_pids => {}, root => undef,
    }, $class;
    $self->{mpm} = 'prefork' if $self->{php};
    $self->{module} //= _module_path();
    $self->{root} = _make_root();
    $self->write_doc('ok.txt', "ok\n");
    $self->write_doc($_, $self->{docs}{$_}) for keys %{ $self->{docs} };
    $self->_write_config;
    push @instances, $self;
    for my $signal (qw(INT TERM HUP)) {
        $SIG{$signal} = sub { exit 1 } unless ref $SIG{$signal};
    }
    return $self;
}

sub root ($self)             { return $self->{root} }
sub mpm ($self)              { return $self->{mpm} }
sub pid ($self)              { return $self->{pid} }
sub port ($self, $n = 1)     { return $self->{ports}{"PORT$n"} //= claim_port() }
sub http_port ($self)        { return $self->{ports}{HTTP} //= claim_port() }
sub allow_log ($self, @patterns) { push @{ $self->{allowed} }, @patterns; return $self }

sub write_doc ($self, $name, $content) {
    return _write("$self->{root}/htdocs/$name", $content);
}

sub _write ($path, $content) {
    open my $fh, '>', $path or die "$path: $!\n";
    print {$fh} $content;
    close $fh or die "$path: $!\n";
    return;
}

sub expand ($self, $text) {
    $text =~ s/%PORT%/%PORT1%/g;
    $text =~ s/%PORT(\d)%/$self->port($1)/ge;
    $text =~ s/%HTTP%/$self->http_port/ge;
    $text =~ s/%ROOT%/$self->{root}/g;
    return $text;
}

sub _workers ($self) {
    return $self->{mpm_config} if defined $self->{mpm_config};
    return "StartServers 4\nMinSpareServers 2\nMaxSpareServers 8\nMaxRequestWorkers 16\n"
        if $self->{mpm} eq 'prefork';
    return "StartServers 2\nThreadsPerChild 8\nMinSpareThreads 8\nMaxSpareThreads 32\nMaxRequestWorkers 32\n";
}

# Where the web children can read our handler. A root httpd's children are an
# ordinary user, who may not be able to enter the folder this tree lies in.
sub php_folder ($self) {
    return top_srcdir() . '/php' if $> != 0;
    my $from = top_srcdir() . '/php';
    my $to   = "$self->{root}/handler";
    for my $path (glob("$from/*.php"), glob("$from/src/*.php")) {
        my $copy = $to . substr $path, length $from;
        make_path(dirname($copy), { mode => 0755 });
        _write($copy, _slurp($path));
    }
    return $to;
}

sub _php_config ($self) {
    return '' unless $self->{php};
    my ($name, $path) = php_module() or die "no mod_php\n";
    my $prepend = $self->php_folder . '/prepend.php';
    my $save_path = $self->{php_save_path} // 'tcp://127.0.0.1:%PORT%';
    return <<"END";
LoadModule $name "$path"
PHPINIDir "%ROOT%/php"
<FilesMatch "\\.php\$">
    SetHandler application/x-httpd-php
</FilesMatch>
php_value auto_prepend_file "$prepend"
php_value session.save_path "$save_path"
php_value display_errors 1
END
}

sub _write_config ($self) {
    my $user = $> == 0 ? sprintf("User %s\nGroup %s\n", web_user()) : '';
    my $text = join '',
        "ServerRoot \"%ROOT%\"\nServerName 127.0.0.1\nDefaultRuntimeDir \"%ROOT%/run\"\n",
        "PidFile \"%ROOT%/run/httpd.pid\"\nListen 127.0.0.1:%HTTP%\n",
        _load("mpm_$self->{mpm}", 1), (map { _load($_, 0) } qw(unixd log_config)),
        (map { _load($_, 1) } qw(authz_core status dir), @{ $self->{modules} }),
        ($self->{module} ? "LoadModule sessiond_module \"$self->{module}\"\n" : ''),
        $user, $self->_workers, <<'END', $self->_php_config, $self->{config}, "\n";
ErrorLog "%ROOT%/error.log"
Timeout 60
KeepAlive Off
GracefulShutdownTimeout 10
DocumentRoot "%ROOT%/htdocs"
<Directory "%ROOT%/htdocs">
    Require all granted
</Directory>
ExtendedStatus On
<Location "/server-status">
    SetHandler server-status
</Location>
END
    $text .= "LogLevel $self->{log_level}\n";
    $text .= "<Location \"/sessiond-status\">\n    SetHandler sessiond-status\n</Location>\n" if $self->{module};
    return _write("$self->{root}/httpd.conf", $self->expand($text));
}

# Rewrites the configuration; a restart of either kind makes it count.
sub reconfigure ($self, $config) {
    $self->{config} = $config;
    $self->_write_config;
    return $self;
}

# Runs a program with its output in a file (a pipe would be kept open by a
# daemon). Returns (exit status, output); status -1 when it had to be killed.
sub run ($self, @command) {
    my $out = "$self->{root}/run/console";
    my $pid = fork // die "fork: $!\n";
    if ($pid == 0) {
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP PIPE);
        open STDIN,  '<', '/dev/null';
        open STDOUT, '>', $out;
        open STDERR, '>&', \*STDOUT;
        $ENV{LC_ALL} = 'C';
        exec { $command[0] } @command or POSIX::_exit(127);
    }
    my $deadline = now() + $LONG;
    my $status;
    until (defined $status) {
        if (waitpid($pid, WNOHANG) == $pid) { $status = $? & 127 ? -1 : $? >> 8 }
        elsif (now() > $deadline)           { kill KILL => $pid; waitpid $pid, 0; $status = -1 }
        else                                { nap(0.01) }
    }
    return ($status, _slurp($out));
}

sub _slurp ($path) {
    open my $fh, '<', $path or return '';
    local $/;
    return readline($fh) // '';
}

sub _httpd ($self, @arguments) {
    local %ENV = (%ENV, %{ $self->{env} });
    $ENV{LD_PRELOAD} = join ' ', @{ $self->{preload} } if @{ $self->{preload} };
    return $self->run(httpd_binary(), '-d', $self->{root}, '-f', "$self->{root}/httpd.conf", @arguments);
}

# (exit status, output) of a configuration test.
sub configtest ($self) { return $self->_httpd('-t') }

# Starts httpd and waits until it answers and, where sessions are served, until
# the session process does. try_start() returns (exit status, output) instead.
sub start ($self) {
    for my $attempt (1 .. 5) {
        my ($status, $output) = $self->try_start;
        return $self if $status == 0 && $self->_came_up;
        my $why = $output . $self->error_log;
        $self->stop;
        if ($why =~ /Address already in use|could not bind/i && $attempt < 5) {
            $self->{ports} = {};        # somebody else's port: draw others
            unlink "$self->{root}/error.log";
            $self->_write_config;
            next;
        }
        die "$self->{name} did not start (exit $status): $output\n" . $self->error_log;
    }
}

sub try_start ($self) {
    unlink "$self->{root}/run/httpd.pid";
    $self->_set_guard;
    my ($status, $output) = $self->_httpd('-k', 'start');
    if ($status == 0) {
        # The daemon writes its pid a moment after the console command is back.
        my $until = now() + $LONG;
        until ($self->{pid} = $self->_pid_from_file) {
            last if now() > $until || $self->error_log =~ /AH00016|Configuration Failed/;
            nap(0.02);
        }
    }
    return ($status, $output);
}

sub _pid_from_file ($self) {
    my ($pid) = _slurp("$self->{root}/run/httpd.pid") =~ /^(\d+)\s/;
    return $pid;
}

sub _came_up ($self) {
    my $until = now() + $LONG;
    while (now() < $until) {
        return 0 unless $self->{pid} && is_alive($self->{pid});
        my ($status) = $self->get('/ok.txt', timeout => 5);
        if ($status == 200) {
            return 1 unless $self->_serves_sessions;
            my $state = $self->status;
            return 1 if ($state->{SessiondState} // '') eq 'running';
        }
        nap(0.02);
    }
    return 0;
}

sub _serves_sessions ($self) {
    return $self->{module} && $self->{config} =~ /^\s*SessiondListen\b/mi;
}

# The guard outlives any death of the test and then stops what is left.
sub _set_guard ($self) {
    return if $self->{guard};
    pipe my $read, my $write or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";
    if ($pid == 0) {
        POSIX::setsid();
        $SIG{$_} = 'IGNORE' for qw(INT TERM HUP PIPE);
        # Whatever else the test had open would stay open with the guard.
        my $kept = fileno $read;
        opendir my $open, '/proc/self/fd' or POSIX::_exit(1);
        my @open = grep { /^\d+$/ && $_ != $kept } readdir $open;
        closedir $open;
        POSIX::close($_) for @open;
        my $word = '';
        1 while !defined sysread $read, $word, 64;
        if ($word eq '') {
            my $httpd = $self->_pid_from_file;
            if ($httpd && _is_ours($httpd, $self->{root})) {
                kill TERM => $httpd;
                my $until = now() + 20;
                nap(0.1) while process_group($httpd) && now() < $until;
                kill KILL => process_group($httpd);
            }
            remove_tree($self->{root}, { error => \my $ignored });
        }
        POSIX::_exit(0);
    }
    close $read;
    @$self{qw(guard guard_pipe)} = ($pid, $write);
    return;
}

sub _is_ours ($pid, $root) {
    return index(_slurp("/proc/$pid/cmdline"), $root) >= 0;
}

sub _dismiss_guard ($self) {
    my $pid = delete $self->{guard} or return;
    my $pipe = delete $self->{guard_pipe};
    syswrite $pipe, 'done';
    close $pipe;
    waitpid $pid, 0;
    return;
}

# Stops all there is, whatever the configuration says by now. True when TERM to
# the parent was enough.
sub stop ($self) {
    my $pid = $self->{pid} // $self->_pid_from_file;
    my $clean = 1;
    if ($pid) {
        my $led = is_alive($pid);
        kill TERM => $pid if $led;
        my $until = now() + 40;
        nap(0.02) while is_alive($pid) && now() < $until;
        $clean = 0 if is_alive($pid);
        # Children of a parent that ended in order go by themselves; one that
        # stays is a finding. Those of a killed one are left to us.
        $until = now() + ($led ? 5 : 0.2);
        nap(0.02) while process_group($pid) && now() < $until;
        if (my @left = process_group($pid)) {
            $clean = 0;
            $self->{left} = join ', ', map { "$_ (" . _slurp("/proc/$_/comm") =~ s/\n//r . ')' } @left;
            kill KILL => @left;
            $until = now() + 10;
            nap(0.02) while process_group($pid) && now() < $until;
        }
        for my $old (grep { is_alive($_) } keys %{ $self->{session_pids} }) {
            next unless _slurp("/proc/$old/comm") =~ /^sessiond/ && _is_ours($old, $self->{root});
            $clean = 0;
            $self->{left} .= " session process $old";
            kill KILL => $old;
        }
    }
    $self->{pid} = undef;
    $self->{session_pids} = {};
    return $clean;
}

sub get ($self, $path, %opt) { return http_request($self->http_port, $path, %opt) }

sub _auto ($self, $path) {
    my $until = now() + $LONG;
    my ($status, $body);
    do {
        ($status, $body) = $self->get("$path?auto", timeout => 20);
        if ($status == 200) {
            my %value = $body =~ /^([^:\n]+): ?(.*)$/mg;
            $self->{session_pids}{ $value{SessiondPid} } = 1 if $value{SessiondPid};
            return \%value;
        }
        nap(0.05);
    } while now() < $until && $self->{pid} && is_alive($self->{pid});
    croak "$path?auto: $status $body";
}

# The keys of ?auto, of our own page and of mod_status's.
sub status ($self)        { return $self->_auto('/sessiond-status') }
sub server_status ($self) { return $self->_auto('/server-status') }

# SessiondMemory as it counts, in whole megabytes (some bytes go to alignment).
sub memory_megabytes ($self) { return sprintf '%.0f', $self->value('MemorySize') / (1 << 20) }

# One counter or value, by the name without "Sessiond".
sub value ($self, $key) {
    return $self->status->{"Sessiond$key"} // croak "no Sessiond$key in ?auto";
}

sub sessiond_pid ($self) { return $self->value('Pid') }

# Waits until the code returns something true, which is returned; dies with
# the name of what did not happen and the log.
sub wait_for ($self, $code, $seconds = $LONG, $what = 'the condition') {
    my $value = $self->eventually($code, $seconds);
    return $value if $value;
    Test::More::diag($self->error_log_tail);
    croak "$what did not happen within $seconds s";
}

# The same for a test of its own: false when it never came.
sub eventually ($self, $code, $seconds = $LONG) {
    my $until = now() + $seconds;
    my $pause = 0.01;
    while (1) {
        my $value = $code->();
        return $value if $value || now() > $until;
        nap($pause);
        $pause = $pause * 1.5 if $pause < 0.1;
    }
}

sub _signal_restart ($self, $word, %opt) {
    my $old  = eval { $self->server_status->{ParentServerMPMGeneration} } // -1;
    my $was  = $self->{module} ? eval { $self->status } // {} : {};
    my ($status, $output) = $self->_httpd('-k', $word);
    return ($status, $output) if $status != 0 || exists $opt{wait} && !$opt{wait};
    $self->wait_for(sub {
        my $generation = eval { $self->server_status->{ParentServerMPMGeneration} };
        return defined $generation && $generation > $old;
    }, $LONG, "$word: a new generation");
    if ($self->_serves_sessions) {
        $self->wait_for(sub {
            my $is = eval { $self->status } // return 0;
            return ($is->{SessiondState} // '') eq 'running' && $is->{SessiondPid} != ($was->{SessiondPid} // 0);
        }, $LONG, "$word: a new session process");
    }
    return ($status, $output);
}

# (exit status, output) of the command; wait => 0 returns without waiting for
# the new generation and the new session process.
sub graceful ($self, %opt) { return $self->_signal_restart('graceful', %opt) }
sub restart ($self, %opt)  { return $self->_signal_restart('restart', %opt) }

# Lets the session process check the whole store; returns what it found.
sub check ($self, $seconds = $LONG) {
    my $before = $self->status;
    kill USR2 => $before->{SessiondPid};
    return $self->wait_for(sub {
        my $is = $self->status;
        return $is->{SessiondChecks} > $before->{SessiondChecks} && $is->{SessiondLastCheck} ne 'running'
            && $is->{SessiondLastCheck};
    }, $seconds, 'check()');
}

# Returns the pid that got the signal.
sub kill_sessiond ($self, $signal = 'KILL') {
    my $pid = $self->sessiond_pid or croak 'no session process';
    kill $signal => $pid or croak "kill $pid: $!";
    return $pid;
}

sub wait_respawn ($self, $old, $seconds = $LONG) {
    return $self->wait_for(sub {
        my $is = $self->status;
        return $is->{SessiondState} eq 'running' && $is->{SessiondPid} != $old && $is->{SessiondPid};
    }, $seconds, "a successor of session process $old");
}

sub log_file ($self, $name) { return _slurp("$self->{root}/$name") }
sub error_log ($self)       { return $self->log_file('error.log') }

sub error_log_tail ($self, $lines = 25) {
    my @all = split /^/, $self->error_log;
    return join '', @all > $lines ? @all[-$lines .. -1] : @all;
}

sub unexpected_log_lines ($self) {
    my @found;
    my $logs = join '', map { _slurp($_) } glob "$self->{root}/error.log*";     # a test may rotate it
    LINE: for my $line (split /\n/, $logs) {
        next unless $line =~ $UNEXPECTED;
        for my $pattern (@{ $self->{allowed} }) { next LINE if $line =~ $pattern }
        push @found, $line;
    }
    return @found;
}

# The last two tests of a file: it stopped when told, and nothing unexpected
# was logged. A server that is never finished is stopped in END, where the same
# findings turn the exit status.
sub finish ($self) {
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $clean = $self->stop;
    Test::More::ok($clean, "$self->{name} ($self->{mpm}): all processes end on TERM")
        or Test::More::diag('left: ' . ($self->{left} // 'the parent'));
    my @found = $self->unexpected_log_lines;
    Test::More::ok(!@found, "$self->{name} ($self->{mpm}): nothing unexpected in the error log")
        or Test::More::diag(join "\n", @found > 20 ? (@found[0 .. 19], '...') : @found);
    $self->_clean_up;
    return $clean && !@found;
}

sub _clean_up ($self) {
    $self->{finished} = 1;
    $self->_dismiss_guard;
    if ($ENV{SESSIOND_TEST_KEEP}) { Test::More::diag("kept $self->{root}") }
    else                          { remove_tree($self->{root}, { error => \my $ignored }) }
    @instances = grep { $_ != $self } @instances;
    return;
}

sub _end ($self) {
    return 0 if $self->{finished} || $self->{owner} != $$;
    my $bad = !$self->stop;
    for my $line ($self->unexpected_log_lines) {
        Test::More::diag("error log: $line");
        $bad = 1;
    }
    $self->_clean_up;
    return $bad;
}

END {
    my $status = $?;
    for my $server (@instances) { $status ||= 1 if $server->_end }
    $? = $status;
}

1;
