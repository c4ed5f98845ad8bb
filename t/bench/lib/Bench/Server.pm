# SPDX-License-Identifier: Apache-2.0
#
# Bench::Server: what is compared: our module in a private httpd, the floor, and
# the peers that are installed. Each is a process of its own on one core, with
# the same memory, and ends with us.
#
# Peers are found in the path; sharedanced, which no distribution has, where the
# environment says (SHAREDANCED=/path/to/it). A peer that is not there is left
# out: start_memcached and its kin return nothing then.
package Bench::Server;
use v5.36;

use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use IO::Socket::INET ();
use POSIX      ();
use Exporter   qw(import);
use Sessiond::Test::Httpd;
use Sessiond::Test::Net qw(claim_port nap now processes is_alive);

our @EXPORT_OK = qw(start_ours start_floor start_memcached start_redis start_sharedanced
    server_core load_core on_core);

my %living;    # pid => 1, of what we started

END {
    my $status = $?;
    kill KILL => $_, _children($_) for keys %living;
    $? = $status;
}

# ---- cores ----

# The processors that this process may use: it may be confined itself.
sub _cores () {
    state $cores = do {
        my ($list) = (_slurp('/proc/self/status')) =~ /^Cpus_allowed_list:\s*(\S+)/m;
        [ map { /^(\d+)-(\d+)$/ ? ($1 .. $2) : $_ } split /,/, $list // '0' ];
    };
    return @$cores;
}
sub server_core () { return (_cores())[0] }
sub load_core ()   { return (_cores())[-1] }

# Runs code while this process, and so what it starts, is confined to one core.
sub on_core ($core, $code) {
    _confine($core, $$);
    my @result = eval { $code->() };
    my $error = $@;
    _confine(join(',', _cores()), $$);
    die $error if $error;
    return wantarray ? @result : $result[0];
}

sub _confine ($cores, $pid) {
    system("taskset -acp $cores $pid >/dev/null 2>&1") == 0 or die "taskset: cannot confine $pid to $cores\n";
    return;
}

sub _slurp ($path) {
    open my $fh, '<', $path or return '';
    local $/;
    return readline($fh) // '';
}

# ---- starting and stopping ----

sub _find ($program) {
    return (grep { -x } map { "$_/$program" } split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/bin')[0];
}

# The hard limit of descriptors, for servers that hold many connections.
my @UNLIMITED = ('sh', '-c', 'ulimit -n "$(ulimit -Hn)"; exec "$@"', 'sh');

sub _start ($self, @command) {
    my $pid = fork // die "fork: $!\n";
    if ($pid == 0) {
        open STDIN,  '<', '/dev/null';
        open STDOUT, '>', '/dev/null';
        open STDERR, '>', '/dev/null';
        exec @UNLIMITED, 'taskset', '-c', server_core(), @command or POSIX::_exit(127);
    }
    $living{$pid} = 1;
    $self->{pid} = $pid;
    my $until = now() + 60;
    until (IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port})) {
        die "$self->{name} does not answer\n" if now() > $until || waitpid($pid, POSIX::WNOHANG()) == $pid;
        nap(0.02);
    }
    return $self;
}

sub _new ($name, $dialect) {
    return bless { name => $name, dialect => $dialect, port => claim_port() }, __PACKAGE__;
}

# memory, connections: what it may use. config: more directives. core: where it
# runs, instead of the server's core. modules, docs: as Sessiond::Test::Httpd.
sub start_ours (%opt) {
    my $httpd = Sessiond::Test::Httpd->new(
        docs => $opt{docs} // {}, modules => $opt{modules} // [],
        config => join "\n", 'SessiondListen 127.0.0.1:%PORT%', 'SessiondThreads 1',
            'SessiondMemory ' . ($opt{memory} // '512M'), 'SessiondExpiration 86400',
            'SessiondMaxConnections ' . ($opt{connections} // 10_000), $opt{config} // '', '')->start;
    my $self = bless { name => 'mod_sessiond', dialect => $opt{dialect} // 'extended',
        port => $httpd->port, pid => $httpd->sessiond_pid, httpd => $httpd }, __PACKAGE__;
    _confine($opt{core} // server_core(), $self->{pid});
    return $self;
}

sub start_floor ($shape, $bytes) {
    my $self = _new('floor (no store)', $shape eq 'once' ? 'sharedance' : 'extended');
    return $self->_start(_program('floor'), $self->{port}, $bytes, $shape);
}

sub start_memcached (%opt) {
    my $program = _find('memcached') or return;
    my $self = _new('memcached -t 1', 'memcached');
    my @user = $> == 0 ? ('-u', 'nobody') : ();
    return $self->_start($program, @user, '-l', '127.0.0.1', '-p', $self->{port}, '-t', 1,
        '-m', $opt{megabytes} // 512, '-c', $opt{connections} // 10_000);
}

sub start_redis (%opt) {
    my $program = _find('redis-server') or return;
    my $self = _new('Redis', 'redis');
    # protected mode would refuse all of the loopback but 127.0.0.1
    return $self->_start($program, '--bind', '127.0.0.1', '--port', $self->{port}, '--protected-mode', 'no',
        '--save', '', '--appendonly', 'no', '--maxmemory-policy', 'noeviction',
        '--maxmemory', ($opt{megabytes} // 512) . 'mb', '--maxclients', $opt{connections} // 10_000);
}

sub start_sharedanced () {
    my $program = $ENV{SHAREDANCED} or return;
    my $self = _new('sharedanced on tmpfs', 'sharedance');
    $self->{directory} = tempdir('sharedance-XXXXXX', DIR => '/dev/shm', CLEANUP => 1);
    return $self->_start($program, '--ip', '127.0.0.1', '--port', $self->{port}, '--directory', $self->{directory});
}

sub stop ($self) {
    if ($self->{httpd}) {
        $self->{httpd}->stop;
        return;
    }
    my $pid = delete $self->{pid} or return;
    my @all = ($pid, _children($pid));
    kill KILL => @all;
    waitpid $pid, 0;
    delete $living{$pid};
    my $until = now() + 10;
    nap(0.01) while now() < $until && grep { is_alive($_) } @all;
    remove_tree($self->{directory}) if $self->{directory};
    return;
}

sub _children ($pid) {
    my %all = processes();
    return grep { $all{$_}{ppid} == $pid } keys %all;
}

sub name ($self)    { return $self->{name} }
sub dialect ($self) { return $self->{dialect} }
sub port ($self)    { return $self->{port} }
sub httpd ($self)   { return $self->{httpd} }

# The processes whose time and memory count: without httpd's, with sharedanced's
# cleaner.
sub pids ($self) { return ($self->{pid}, $self->{httpd} ? () : _children($self->{pid})) }

sub move_to_core ($self, $core) {
    _confine($core, $_) for $self->pids;
    return;
}

# ---- memory ----

# What its processes occupy, in bytes: resident, and the proportional share of
# that without shared memory, which for us is what lies beside the segment.
sub memory ($self) {
    my ($resident, $own) = (0, 0);
    for my $pid ($self->pids) {
        my $text = _slurp("/proc/$pid/smaps_rollup");
        my %kb = $text =~ /^(\w+):\s+(\d+) kB$/mg;
        $resident += $kb{Rss} * 1024;
        $own      += ($kb{Pss} - $kb{Pss_Shmem}) * 1024;
    }
    return { resident => $resident, own => $own };
}

# ---- our programs ----

sub _program ($name) {
    my $path = "$ENV{abs_top_builddir}/t/bench/$name";
    -x $path or die "$path is not there: make bench-programs\n";
    return $path;
}

# Runs one of the clients against a server and returns what it measured. `core`
# is where it runs. Misses and errors are no figures: they end the benchmark.
sub run ($self, $program, %opt) {
    my $core = delete $opt{core} // load_core();
    my @pids = map { ('-P', $_) } $self->pids;
    my @options = map { defined $opt{$_} ? ("-$_", $opt{$_}) : "-$_" } sort keys %opt;
    my $path = _program($program);
    open my $pipe, '-|', 'taskset', '-c', $core, $path, '-d', $self->{dialect}, '-p', $self->{port}, @options, @pids
        or die "$path: $!\n";
    my $line = readline($pipe) // '';
    close $pipe;
    my %value = $line =~ /([\w.]+)=(\d[\d.]*)/g;
    die "$self->{name}: $program @options: $line\n" if $? != 0 || !%value || $value{misses};
    return \%value;
}

1;
